"""`streamclf bench`: options that are refused, and the JSON output."""

from __future__ import annotations

import json

import pytest

from engines.bundle import Bundle
from streamclf.cli import _main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "model=nowhere: no such directory"),
        (["nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["--streams", "0"], "'--streams'"),
        (["--streams", "1", "--size", "12"], "--size 12: give WIDTHxHEIGHT, like 1280x720"),
        (["--streams", "1", "--size", "10x10"], "64x64 to 7680x4320"),
        (["--streams", "1", "--fps", "0"], "--fps 0: must be 1 to 240"),
        (["--hop", "2"], "--hop 2 describes cameras, and a bundle alone has none; add --streams"),
        (["--size", "640x360"], "--size 640x360 describes cameras"),
        (["--decode", "fast"], "--decode fast describes cameras"),
        (["--streams", "1", "--decode", "quick"], "'quick' is not"),
        (["--decode", "both", "--capacity"], "--decode both compares a fixed number of streams; leave out --capacity"),
        (["--suite", "cpu"], "'cpu' is not"),
        (["--suite", "gpu", "--streams", "2"], "leave out --streams"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _main(["bench", *arguments]) == 2
    output = capsys.readouterr()
    assert message in output.err
    assert output.out == ""
    assert len(output.err.strip().splitlines()) == 1


def test_json_is_one_object_and_nothing_else(bundle: Bundle, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    arguments = ["--backend", "onnxruntime", "--precision", "fp32", "--max-batch", "1", "--seconds", "0.05", "--json"]
    assert _main(["bench", str(bundle.path), *arguments]) == 0
    (row,) = json.loads(capfdbinary.readouterr().out)["results"]
    assert row["batch"] == 1
