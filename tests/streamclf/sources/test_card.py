"""Pictures and chunks that stay on the GPU, with PyAV's CUDA frames over a substitute driver that uses host memory."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import av
import pytest
from support.cuda_driver import build_driver
from support.repository import ROOT

from engines.backends.choice import is_installed
from engines.backends.names import CUDA_ADAPTERS
from streamclf.sources.hw_decode import EXTRA_PICTURES, buffer_options, keeps_pictures, make_accelerator


@pytest.mark.skipif(int(av.__version__.split(".")[0]) < 17, reason="PyAV before 17 keeps no pictures on a GPU")
@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc, no GPU")
@pytest.mark.skipif(not any(map(is_installed, CUDA_ADAPTERS)), reason="needs PyCUDA or cuda-bindings, no GPU")
def test_pictures_and_chunks_stay_on_the_gpu(tmp_path: Path) -> None:
    build_driver(tmp_path)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), *sys.path])
    cache = str(tmp_path / "cache")
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": path, "STREAMCLF_CACHE": cache}
    command = [sys.executable, "-m", "support.card_checks", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "all checks passed\n", ""), done.stderr[-3000:]


def test_only_cuda_keeps_pictures_in_its_memory() -> None:
    assert [keeps_pictures(device) for device in ("cuda", "vaapi", "videotoolbox", None)] == [True, False, False, False]  # type: ignore[arg-type]
    assert buffer_options("cuda") == {"extra_hw_frames": str(EXTRA_PICTURES)}
    assert buffer_options(None) == buffer_options("vaapi") == {}
    assert make_accelerator("cuda").is_hw_owned
    assert not make_accelerator("vaapi").is_hw_owned
