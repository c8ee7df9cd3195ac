"""The CUDA half of the TensorRT adapter on the real PyCUDA, over a substitute driver that uses host memory."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.pycuda_driver import build_driver
from support.repository import ROOT

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pycuda") is None or shutil.which("gcc") is None,
    reason="needs pycuda and gcc, no GPU",
)


def test_the_device_and_the_engine_work_on_pycuda(tmp_path: Path) -> None:
    build_driver(tmp_path)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), *sys.path])
    cache = str(tmp_path / "cache")
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": path, "STREAMCLF_CACHE": cache}
    command = [sys.executable, "-m", "support.pycuda_checks", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout) == (0, "all checks passed\n"), done.stderr[-3000:]
