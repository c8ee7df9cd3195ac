"""The script that proves the GPU path runs on the double, and a part that fails does not end it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from support.bundles import make_brightness_bundle
from support.clips import write_clip
from support.repository import ROOT

SCRIPT = ROOT / "tests" / "gpu" / "prove.py"


def test_every_part_runs_on_the_double(tmp_path: Path) -> None:
    bundle = make_brightness_bundle(tmp_path / "bundle").path
    log = tmp_path / "out.jsonl"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), "STREAMCLF_CACHE": str(tmp_path / "cache")}
    write_clip(tmp_path / "film.mp4", frames=40, fps=25, width=320, height=240, gop=10)
    parts = [f"decode:{tmp_path}/film.mp4:2", "device", f"{tmp_path}/absent:fp16:4", f"{bundle}:fp32:6:live"]
    options = ["--double", "--streams", "4", "--live-s", "0.5", "--round-s", "0.02"]
    command = [sys.executable, str(SCRIPT), str(log), *parts, *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 1, done.stderr[-2000:]  # the second part has failed
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    kernels = [row for row in rows if "words" in row]
    assert [row["right"] for row in kernels] == [[True] * 3] * 4
    scaled = [row for row in rows if "scaled" in row]
    assert [row["largest_difference"] for row in scaled] == [0] * 5
    (failed,) = [row for row in rows if "error" in row]
    assert failed["part"] == parts[2]
    (decoded,) = [row for row in rows if row["part"] == "decode/2"]
    assert decoded["largest_difference"] <= 1
    assert decoded["scaled_on_gpu"] == decoded["decoded_on_gpu"] == decoded["sampled"] > 0
    found = {key: row[key] for row in rows if row["part"] == "brightness/fp32" for key in row}
    assert found["max_dp"] <= found["allowed"]
    assert set(found["difference_from_largest_batch"]) == {str(size) for size in range(1, 7)}
    assert max(found["difference_from_largest_batch"].values()) < 1e-5
    assert found["difference_of_device_chunks"] == 0
    assert found["predictions_per_s"] > 0
    assert found["live"]["predictions_per_s"] > 0
