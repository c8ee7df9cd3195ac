"""One part of the GPU suite: in this process with a double of GPU and TensorRT, and in a process without a GPU."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.bundles import make_brightness_bundle

from streamclf.bench.gpu.part import PartRequest, main, measure_in_process, measure_part, run_in_process
from streamclf.errors import BenchError


@pytest.mark.usefixtures("with_double")
def test_too_many_live_streams_are_followed_by_a_try_with_fewer(
    tmp_path: Path, small: PartRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamclf.bench.gpu.part.MAX_LAG_S", 0.2)
    bundle = make_brightness_bundle(tmp_path / "brightness")
    many = replace(small, bundle=str(bundle.path), precision="fp32", streams=200_000, seconds=0.2)
    first, second = measure_part(many)["live"]
    assert not first["held"]
    assert second["streams"] < 200_000


def test_a_part_in_a_process_fails_with_one_message(tmp_path: Path, small: PartRequest) -> None:
    """This machine has no GPU: the message of the library is the error, without a traceback."""
    bundle = make_brightness_bundle(tmp_path / "brightness")
    with pytest.raises(BenchError, match=r"tensorrt"):
        measure_in_process(replace(small, bundle=str(bundle.path), precision="fp32"), 60)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os; os.kill(os.getpid(), 11)", "ended by SIGSEGV: no output on stderr"),
        ("import time; time.sleep(60)", "not done after 0 s"),
        ("import sys; sys.exit('no such thing')", "exit code 1: no such thing"),
        ('print(\'{"error": "too small"}\')', "too small"),
    ],
)
def test_the_error_says_how_a_process_ended(code: str, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        run_in_process([sys.executable, "-c", code], 0.1 if "sleep" in code else 60)


def test_a_part_prints_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(request: PartRequest) -> dict[str, object]:
        raise BenchError(f"no {request.precision}")

    assert main(['{"precision": "fp16"}'], measure=fail) == 1
    assert json.loads(capsys.readouterr().out) == {"error": "no fp16"}
    assert main(["{}"], measure=lambda request: {"side": request.side}) == 0
    assert json.loads(capsys.readouterr().out) == {"side": 8192}
