"""The options --region, --mask, --rotate and --flip: what they select, and what they refuse."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from support.bundles import make_brightness_bundle
from support.clips import write_clip

from engines.opening import open_engine
from streamclf.classifier.offline import classify_file, file_chunks
from streamclf.classifier.window_classifier import offline_bank_slots
from streamclf.commands.area_options import parse_area
from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.errors import UsageError
from training.data.decode import DecodeSpec, decode_clip


def parsed(
    region: str | None = None, masks: Sequence[str] = (), rotate: int = 0, flip: str | None = None
) -> PictureArea:
    return parse_area(region=region, masks=masks, rotate=rotate, flip=flip)


def test_options_are_the_keys_of_a_stream() -> None:
    assert parsed() == WHOLE
    area = parsed("0.2,0.1,0.8,0.9", ["0,0,0.2,0.1", "0.5, 0, 1, 0, 1, 0.4"], 90, "vertical")
    keys = {"region": [0.2, 0.1, 0.8, 0.9], "mask": [[0, 0, 0.2, 0.1], [[0.5, 0], [1, 0], [1, 0.4]]]}
    assert area == PictureArea(**keys, rotate=90, flip="vertical")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"region": "0.2,0.1"}, "--region: a rectangle is four numbers"),
        ({"region": "a,b,c,d"}, "--region a,b,c,d: numbers with commas between them, like 0.2,0.1,0.8,0.9"),
        ({"region": "0.5,0,0.4,1"}, "--region: left=0.5 must be less than right=0.4"),
        ({"region": "nan,0,1,1"}, "--region: nan: a share of the picture is 0 to 1"),
        ({"masks": ["0,0,1,1"]}, "--mask: mask covers the whole picture"),
        ({"masks": ["0,0,1,1,1"]}, "--mask 0,0,1,1,1: 5 numbers; give four for a rectangle"),
        ({"masks": ["0,0,1,1,1,0,0,1"]}, "--mask: number 1: the polygon's edges 1 and 3 cross"),
        ({"rotate": 45}, "--rotate 45: must be 0, 90, 180 or 270"),
    ],
)
def test_a_fault_names_the_option(options: dict[str, object], expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        parsed(**options)  # type: ignore[arg-type]
    assert expected in str(caught.value)


def test_files_and_training_see_the_same_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chunks of a film, and the frames that training decodes, are those of the part, and so are the numbers."""
    monkeypatch.setenv("STREAMCLF_CACHE", str(tmp_path / "cache"))
    bundle = make_brightness_bundle(tmp_path / "brightness")
    spec = bundle.spec
    film, short = write_clip(tmp_path / "film.mp4", frames=50), write_clip(tmp_path / "short.mp4", frames=5)
    area = parsed("0.5,0,1,1", ["0.8,0.5,1,1"], 180)
    whole = [pixels for _, pixels in file_chunks(spec, film)]
    part = [pixels for _, pixels in file_chunks(spec, film, area=area)]
    assert len(part) == len(whole)
    assert not np.array_equal(part, whole)
    decoding = DecodeSpec(
        fps=spec.fps, frames_per_chunk=spec.frames_per_chunk, steps=1, height=spec.height, width=spec.width,
        resize=spec.resize, area=area,
    )  # fmt: skip
    assert (decode_clip(film, decoding).frames[: len(part) * spec.frames_per_chunk] == np.concatenate(part)).all()
    engine = open_engine(bundle, precision="fp32", max_batch=4, bank_slots=offline_bank_slots(spec, 4))
    try:
        for path in (film, short):
            assert not np.array_equal(
                classify_file(engine, path).windows[0].probabilities,
                classify_file(engine, path, area=area).windows[0].probabilities,
            )
    finally:
        engine.close()
