"""Run `engines.build_process` with the GPU double: `python build_process_on_double.py GO_FILE JSON`.

The build starts when GO_FILE exists, so that a test decides when. After 60 s it starts without it.
"""

import sys
import threading
import time
from pathlib import Path

# The root must come before tests/, which has folders with the names of the packages.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from support.gpu_double import double_platform

import engines.backends.tensorrt
import engines.opening
from engines.build_process import exit_with_parent, main

if __name__ == "__main__":
    threading.Thread(target=exit_with_parent, daemon=True).start()
    deadline = time.monotonic() + 60
    while not Path(sys.argv[1]).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    engines.backends.tensorrt.load_platform = double_platform
    engines.opening.missing_libraries = lambda backend: []
    sys.exit(main(sys.argv[2:]))
