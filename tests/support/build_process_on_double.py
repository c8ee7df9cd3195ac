"""`engines.build_process` on a machine whose GPU is the double: `python build_process_on_double.py WAIT_FOR JSON`.

It builds once the file WAIT_FOR is there, or ends after a minute without it.
"""

import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))  # first: tests/ has folders called like the packages

from support.gpu_double import double_platform

import engines.backends.tensorrt
import engines.opening
from engines.build_process import _end_with_parent, main

if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    until = time.monotonic() + 60
    while not Path(sys.argv[1]).exists() and time.monotonic() < until:
        time.sleep(0.02)
    engines.backends.tensorrt.load_platform = double_platform
    engines.opening.missing_libraries = lambda backend: []
    sys.exit(main(sys.argv[2:]))
