"""Several models read a film once, and each gives what it gives alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bundles import make_brightness_bundle, make_other_head
from support.clips import write_clip

from engines.bundle import Bundle
from engines.group import EngineGroup, GroupOptions, open_group
from engines.opening import open_engine
from streamclf.classifier import offline, offline_groups
from streamclf.classifier.offline import classify_file
from streamclf.classifier.offline_groups import classify_with_groups
from streamclf.classifier.window_classifier import offline_bank_slots
from streamclf.cli import _main
from streamclf.errors import SourceError
from streamclf.sources import open_source


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """Two models with one encoder, and one with another rate, size and window."""
    folder = tmp_path_factory.mktemp("bundles")
    first = make_brightness_bundle(folder / "brightness")
    return {
        "brightness": first,
        "levels": make_other_head(folder / "levels", first),
        "slow": make_brightness_bundle(folder / "slow", fps=7.0, chunks=3, size=24, corner=5, name="slow"),
    }


@pytest.fixture
def open_groups(bundles: dict[str, Bundle]) -> Iterator[Callable[..., list[EngineGroup]]]:
    opened: list[EngineGroup] = []

    def open_(*members: tuple[str, ...]) -> list[EngineGroup]:
        for names in members:
            slots = offline_bank_slots(bundles[names[0]].spec, 4)
            options = GroupOptions(backend="onnxruntime", max_batch=4, bank_slots=slots, threads=1)
            opened.append(open_group({name: bundles[name] for name in names}, options).group)
        return opened

    yield open_
    for group in opened:
        group.close()


@pytest.mark.parametrize("frames", [100, 14, 3], ids=["long", "longer than one window only", "short"])
def test_each_model_gives_what_it_gives_alone_and_the_film_is_read_once(
    frames: int, bundles: dict[str, Bundle], open_groups: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = write_clip(tmp_path / "film.mp4", frames=frames)
    opens: Counter[str] = Counter()
    monkeypatch.setattr(
        offline, "open_source", lambda config: (opens.update([str(config.url)]), open_source(config))[1]
    )
    groups = open_groups(("brightness", "levels"), ("slow",))
    encoded: Counter[str] = Counter()
    for group in groups:
        owner: Any = group.owner
        encode = owner.encode

        def count(pixels: Any, slots: Any, name: str = owner.spec.name, encode: Any = encode) -> None:
            encoded[name] += len(slots)
            encode(pixels, slots)

        owner.encode = count
    seen = []
    found = classify_with_groups(groups, film, hop=2, on_frame=lambda _, frame: seen.append(frame.index))
    assert opens == {str(film): 1 + any(result.short_clip for result in found.values())}
    assert set(found) == set(bundles)
    for name, bundle in bundles.items():
        slots = offline_bank_slots(bundle.spec, 4)
        engine = open_engine(bundle, backend="onnxruntime", max_batch=4, bank_slots=slots, threads=1)
        alone = classify_file(engine, film, hop=2)
        engine.close()
        assert found[name].short_clip == alone.short_clip
        assert [(w.start_s, w.end_s) for w in found[name].windows] == [(w.start_s, w.end_s) for w in alone.windows]
        for window, expected in zip(found[name].windows, alone.windows, strict=True):
            np.testing.assert_array_equal(window.probabilities, expected.probabilities)
    if frames == 100:
        assert seen == list(range(100))
        assert encoded["brightness"] == 20  # 4 s at 10 frames a second, 2 to a chunk: once for both models


def test_too_many_windows_of_any_model_are_refused(
    open_groups: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offline_groups, "MAX_WINDOWS", 3)
    with pytest.raises(SourceError, match="more than 3 windows; cut the film"):
        classify_with_groups(open_groups(("slow",)), write_clip(tmp_path / "film.mp4", frames=200))


def run(films: list[Path], models: list[Path | str], *options: str) -> int:
    return _main(["classify", *map(str, films), *(f"--model={model}" for model in models), *options])


def test_the_command_prints_each_film_with_each_model(
    bundles: dict[str, Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    films = [write_clip(tmp_path / f"{name}.mp4", frames=40) for name in ("a", "b")]
    paths = [bundle.path for bundle in bundles.values()]
    assert run([*films, tmp_path / "absent.mp4"], paths, "--json", "--csv", str(tmp_path / "events.csv")) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    shown = [(Path(line["file"]).name, line["model"]) for line in lines]
    assert shown == [(f"{film}.mp4", f"{name}@1") for film in "ab" for name in bundles]
    table = (tmp_path / "events.csv").read_text()
    for name in bundles:
        assert f",{name}@1\n" in table
    single = [run([films[0]], [path], "--json") for path in paths]
    assert single == [0, 0, 0]
    assert list(map(json.loads, capsys.readouterr().out.splitlines())) == lines[:3]
    assert run([films[0]], paths) == 0
    output = capsys.readouterr().out
    assert [line.split("(")[1].split(",")[0] for line in output.splitlines() if "(" in line] == [
        "brightness@1", "levels@1", "slow@1",
    ]  # fmt: skip


def test_outputs_for_one_model_and_models_that_cannot_be_told_apart_are_refused(
    bundles: dict[str, Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film, twin = write_clip(tmp_path / "film.mp4", frames=20), make_brightness_bundle(tmp_path / "twin", corner=3)
    first, slow = bundles["brightness"].path, bundles["slow"].path
    for options, message in (
        (["--report", str(tmp_path / "r.html")], "--report: for one model"),
        (["-o", str(tmp_path / "o.mp4")], "-o: for one model"),
        (["--hop", "4"], "--hop 4: at most 3 (chunks in a window of slow@1)"),
    ):
        assert run([film], [first, slow], *options) == 2
        assert message in capsys.readouterr().err
    assert run([film], [first, twin.path]) == 2
    assert f"its name and version, brightness@1, are those of {first}" in capsys.readouterr().err
    assert run([film], [first, first]) == 2
    assert "--model brightness@1: given twice" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.html"))
