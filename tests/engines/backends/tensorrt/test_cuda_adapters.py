"""Both CUDA adapters, PyCUDA and cuda-bindings, over a substitute driver that uses host memory."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.cuda_driver import build_driver
from support.repository import ROOT

from engines.backends.choice import is_installed
from engines.backends.names import CUDA_ADAPTERS


@pytest.mark.parametrize("adapter", CUDA_ADAPTERS)
def test_the_device_and_the_engine_work(adapter: str, tmp_path: Path) -> None:
    if not is_installed(adapter) or shutil.which("gcc") is None:
        pytest.skip(f"needs {adapter} and gcc, no GPU")
    build_driver(tmp_path)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), *sys.path])
    cache = str(tmp_path / "cache")
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": path, "STREAMCLF_CACHE": cache}
    command = [sys.executable, "-m", "support.cuda_checks", adapter, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout) == (0, "all checks passed\n"), done.stderr[-3000:]
