from __future__ import annotations

import errno
import io
import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from support.bundles import make_brightness_bundle
from support.example_films import BLUE, GREEN, GREY, RED, write_example, write_examples

from engines.bundle import Bundle, load_bundle
from engines.opening import open_engine
from streamclf.classifier.offline import classify_file
from streamclf.classifier.window_classifier import offline_bank_slots
from streamclf.commands.teach.report import report_page
from streamclf.commands.teach.result import next_steps, to_json
from streamclf.config.picture_area import PictureArea
from streamclf.errors import OutputError, UsageError
from streamclf.teach import bundle_writer, reading
from streamclf.teach.example_folder import find_clips
from streamclf.teach.examples import hash_file, load_examples
from streamclf.teach.inputs import TeachOptions
from streamclf.teach.taught import Taught
from streamclf.teach.teaching import teach

pytest.importorskip("sklearn")
NONE = "none of these"


class Recorder:
    """A listener that keeps what it receives."""

    def __init__(self) -> None:
        self.shares: list[float] = []
        self.faults: list[tuple[str, str]] = []
        self.notes: list[str] = []
        self.labels: dict[str, int] = {}

    def start(self, base: str, labels: Mapping[str, int], films: int) -> None:
        self.labels = dict(labels)

    def progress(self, stage: str, share: float, film: str | None = None, number: int = 0) -> None:
        self.shares.append(share)

    def fault(self, film: str, reason: str) -> None:
        self.faults.append((film, reason))

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_brightness_bundle(tmp_path_factory.mktemp("base") / "bundle", decode="exact")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_examples(tmp_path_factory.mktemp("films"), {"red": RED, "green": GREEN, "blue": BLUE})


def run(
    folder: Path | None, output: Path, base: Bundle | None, *, listener: Recorder | None = None, **options: object
) -> Taught:
    fields = {"none_label": NONE, **options}
    return teach(
        TeachOptions(folder=folder, output=output, base=None if base is None else str(base.path), **fields),  # type: ignore[arg-type]
        listener or Recorder(),
        lambda taught: "<!doctype html>",
    )


def top(bundle: Path, film: Path) -> str:
    loaded = load_bundle(bundle)
    engine = open_engine(loaded, max_batch=4, bank_slots=offline_bank_slots(loaded.spec, 4))
    try:
        result = classify_file(engine, film)
        return loaded.spec.labels[int(np.mean([window.probabilities for window in result.windows], axis=0).argmax())]
    finally:
        engine.close()


@pytest.fixture(scope="module")
def taught(films: Path, base: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Taught, Recorder]:
    listener = Recorder()
    return run(films, tmp_path_factory.mktemp("models") / "My Yard", base, listener=listener), listener


def test_a_taught_bundle_classifies_new_films(taught: tuple[Taught, Recorder], base: Bundle, tmp_path: Path) -> None:
    bundle = taught[0].output
    assert top(bundle, write_example(tmp_path / "new.mp4", GREEN, seed=501, seconds=2)) == "green"
    assert top(bundle, write_example(tmp_path / "new2.mp4", RED, seed=502, seconds=2)) == "red"
    assert top(bundle, write_example(tmp_path / "short.mp4", BLUE, seed=503, seconds=0.4)) == "blue"
    spec = load_bundle(bundle).spec
    assert spec.name == "my-yard"
    assert spec.decode == "exact"
    assert (bundle / "encoder.onnx").read_bytes() == (base.path / "encoder.onnx").read_bytes()
    assert set(spec.thresholds) == {"red", "green", "blue"}


def test_a_scene_unlike_all_examples_is_none_of_these(taught: tuple[Taught, Recorder], tmp_path: Path) -> None:
    assert taught[0].labels == ("blue", "green", "red", NONE)
    assert top(taught[0].output, write_example(tmp_path / "grey.mp4", GREY, seed=504, seconds=2)) == NONE
    assert taught[0].figures.false_alarms is not None
    assert taught[0].held_out.novelty.misses is not None


def test_figures_and_progress(taught: tuple[Taught, Recorder]) -> None:
    figures, listener = taught[0].figures, taught[1]
    assert listener.labels == {"blue": 6, "green": 6, "red": 6}
    assert listener.shares == sorted(listener.shares)
    assert listener.shares[-1] == 1
    assert figures.balanced_accuracy > 0.9
    assert figures.interval[0] < figures.balanced_accuracy, "so few films give no certainty"
    assert figures.confusion.sum() == figures.clips == 18


def test_examples_and_report_are_not_part_of_the_checked_bundle(
    taught: tuple[Taught, Recorder], tmp_path: Path
) -> None:
    copy = tmp_path / "published"
    shutil.copytree(taught[0].output, copy)
    for name in ("examples.npz", "examples.json", "report.html"):
        (copy / name).unlink()
    assert load_bundle(copy).spec == load_bundle(taught[0].output).spec


def test_add_goes_on_without_the_films(taught: tuple[Taught, Recorder], films: Path, tmp_path: Path) -> None:
    output = tmp_path / "yard"
    shutil.copytree(taught[0].output, output)
    more = write_examples(tmp_path / "more", {"grey": GREY}, each=5, first_seed=600)
    shutil.copy(films / "red/film0.mp4", more / "grey" / "again.mp4")
    with pytest.raises(UsageError, match=r"red/film0.mp4 and grey/again.mp4: the same film with the labels 'red'"):
        run(more, output, None, add=True)
    (more / "grey/again.mp4").unlink()
    (more / "red").mkdir()
    shutil.copy(films / "red/film0.mp4", more / "red/again.mp4")
    listener = Recorder()
    result = run(more, output, None, add=True, listener=listener)
    assert result.labels == ("blue", "green", "grey", "red", NONE)
    assert result.examples.base == "brightness@1", "not the bundle that was taught before"
    assert listener.notes == ["red/again.mp4: the same film as red/film0.mp4; it counts once"]
    assert top(output, write_example(tmp_path / "new.mp4", GREY, seed=505, seconds=2)) == "grey"
    assert len(load_examples(output, load_bundle(output).spec).items) == 23


def test_add_refuses_another_encoder(taught: tuple[Taught, Recorder], films: Path, tmp_path: Path) -> None:
    output = tmp_path / "yard"
    shutil.copytree(taught[0].output, output)
    other = make_brightness_bundle(tmp_path / "other", corner=8)
    with pytest.raises(UsageError, match="has another encoder than"):
        run(films, output, other, add=True)
    listed = json.loads((output / "examples.json").read_text())
    listed["encoder"] = "0" * 64
    (output / "examples.json").write_text(json.dumps(listed))
    with pytest.raises(UsageError, match="the base has changed"):
        run(films, output, None, add=True)
    (output / "examples.json").unlink()
    with pytest.raises(UsageError, match="holds no examples"):
        run(films, output, None, add=True)


def test_a_damaged_examples_file_is_refused(taught: tuple[Taught, Recorder], films: Path, tmp_path: Path) -> None:
    output = tmp_path / "yard"
    shutil.copytree(taught[0].output, output)
    data = bytearray((output / "examples.npz").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (output / "examples.npz").write_bytes(data)
    with pytest.raises(UsageError, match=r"examples.npz: altered or damaged"):
        run(films, output, None, add=True)


def _huge(name: str) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (10**13, 3 if name == "features" else 2)}
    )
    return header.getvalue()


@pytest.mark.parametrize("change", ["huge", "pickle", "infinite", "negative", "bzip2", "missing"])
def test_crafted_examples_are_refused(
    taught: tuple[Taught, Recorder], films: Path, tmp_path: Path, change: str
) -> None:
    """A bundle from somebody else may hold anything; its own list has the right hash."""
    output = tmp_path / "yard"
    shutil.copytree(taught[0].output, output)
    path = output / "examples.npz"
    with np.load(path) as arrays:
        content = {name: arrays[name] for name in arrays}
    if change == "infinite":
        content["features"][0] = np.nan
    elif change == "negative":
        content["still_sizes"][0] = -5
    elif change == "missing":
        del content["thumbs"]
    elif change == "pickle":
        content["times"] = np.array([[Path("x"), None]] * len(content["times"]), object)
    np.savez(path, **content)
    if change in ("huge", "bzip2"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2 if change == "bzip2" else zipfile.ZIP_DEFLATED) as archive:
            for name, array in content.items():
                plain = io.BytesIO()
                np.save(plain, array)
                archive.writestr(
                    f"{name}.npy", _huge(name) if change == "huge" and name == "features" else plain.getvalue()
                )
    listed = json.loads((output / "examples.json").read_text())
    listed["arrays"] = hash_file(path)
    (output / "examples.json").write_text(json.dumps(listed))
    with pytest.raises(UsageError, match=r"examples.npz: cannot be used"):
        run(films, output, None, add=True)


def test_a_folder_of_none_is_learnt(films: Path, base: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "films"
    shutil.copytree(films / "red", folder / "red")
    write_examples(folder, {"Other": GREY}, each=6, first_seed=700)
    result = run(folder, tmp_path / "yard", base)
    assert result.labels == ("red", NONE)
    recall = result.figures.per_label[1].recall
    assert to_json(result)["none"]["misses"] == pytest.approx(1 - recall)
    assert f"{1 - recall:.0%} of the held-out films of the folder got another label" in report_page(result)
    assert result.thresholds.keys() == {"red"}
    assert top(result.output, write_example(tmp_path / "new.mp4", GREY, seed=506, seconds=2)) == NONE
    assert top(result.output, write_example(tmp_path / "new2.mp4", RED, seed=507, seconds=2)) == "red"


def test_without_none_there_is_no_such_label(films: Path, base: Bundle, tmp_path: Path) -> None:
    assert run(films, tmp_path / "yard", base, none_label=None).labels == ("blue", "green", "red")


def test_unreadable_films_are_passed_over(films: Path, base: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "films"
    shutil.copytree(films, folder)
    (folder / "red/broken.mp4").write_bytes(b"no film at all")
    (folder / "red/empty.mp4").write_bytes(b"")
    listener = Recorder()
    result = run(folder, tmp_path / "yard", base, listener=listener)
    assert {Path(film).name for film, _ in listener.faults} == {"broken.mp4", "empty.mp4"}
    assert result.figures.clips == 18


def test_a_film_that_claims_terabytes_is_passed_over(
    films: Path, base: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sparse file has any size without using the disk; to hash it would take hours."""
    folder = tmp_path / "films"
    shutil.copytree(films, folder)
    with (folder / "red/huge.mp4").open("wb") as file:
        file.truncate(reading.MAX_FILM_BYTES + 1)
    hashed: list[Path] = []
    monkeypatch.setattr(reading, "hash_file", lambda path: hashed.append(path) or hash_file(path))
    reader = reading.ExampleReader(
        cast(Any, SimpleNamespace(spec=base.spec)), base.spec, listener := Recorder(), limit=1, area=PictureArea()
    )
    clips = [clip for clip in find_clips(folder).clips if clip.path.name == "huge.mp4"]
    assert reader.read(clips, []) == []
    assert (hashed, listener.faults[0][0]) == ([], "red/huge.mp4")
    assert "256 GB; at most 256 GB" in listener.faults[0][1]


def test_too_few_readable_films_are_refused(films: Path, base: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "films"
    shutil.copytree(films, folder)
    for number in (0, 1):
        (folder / f"red/film{number}.mp4").write_bytes(b"no film at all")
    with pytest.raises(UsageError, match="'red': 4 clips; at least 5 are needed"):
        run(folder, tmp_path / "yard", base)
    assert not (tmp_path / "yard").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_failure_while_writing_leaves_the_old_bundle(
    taught: tuple[Taught, Recorder],
    films: Path,
    base: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    output = tmp_path / "models/yard"
    shutil.copytree(taught[0].output, output)
    before = load_bundle(output).spec

    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(bundle_writer, "save_examples", fail)
    with pytest.raises(OutputError if isinstance(error, OSError) else KeyboardInterrupt, match=r"No space left|^$"):
        run(films, output, base, force=True)
    assert load_bundle(output).spec == before
    assert [path.name for path in output.parent.iterdir()] == ["yard"]


def test_outputs_that_are_refused(films: Path, base: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="in the folder of the examples"):
        run(films, films / "model", base)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="is no bundle"):
        run(films, tmp_path / "full", base)
    with pytest.raises(UsageError, match="--force replaces it"):
        run(films, base.path, base)
    with pytest.raises(UsageError, match=r"/proc cannot be written"):
        run(films, Path("/proc/models/yard"), base)
    with pytest.raises(UsageError, match="is a file"):
        run(films, tmp_path / "full/letter.txt", base)


def test_the_present_folder_is_refused(
    films: Path, base: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for output in (Path(), Path(".."), tmp_path / "here"):
        with pytest.raises(UsageError, match=r"is the present folder|holds other files"):
            run(films, output, base)


def test_one_recording_alone_is_refused(films: Path, base: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "films"
    shutil.copytree(films / "red", folder / "red")
    for number in range(6):
        write_example(folder / "blue" / f"noon__{number}.mp4", BLUE, seed=800 + number)
    with pytest.raises(UsageError, match="'blue': all of its 6 clips are one recording"):
        run(folder, tmp_path / "yard", base)


def test_almost_the_same_films_count_as_one(films: Path, base: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "films"
    shutil.copytree(films, folder)
    write_example(folder / "red/copy.mp4", RED, seed=1, crf=26)
    listener = Recorder()
    result = run(folder, tmp_path / "yard", base, listener=listener)
    assert (result.figures.clips, result.figures.groups) == (19, 18)
    assert any("copy.mp4 and red/film0.mp4 are almost the same film" in note for note in listener.notes)
    shutil.move(folder / "red/copy.mp4", folder / "blue/copy.mp4")
    with pytest.raises(UsageError, match="almost the same film with the labels 'blue' and 'red'"):
        run(folder, tmp_path / "yard2", base)


def test_labels_of_any_characters(base: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "films"
    write_examples(folder, {"offen\nganz": RED, "geo\u0308ffnet <b>": BLUE}, each=5)
    result = run(folder, tmp_path / "yard", base)
    assert set(load_bundle(result.output).spec.labels) == {"offen\nganz", "ge\u00f6ffnet <b>", *result.labels[2:]}


def test_only_the_region_is_read(base: Bundle, tmp_path: Path) -> None:
    folder = write_examples(tmp_path / "films", {"red": RED, "blue": BLUE}, each=5)
    area = PictureArea(region=(0.0, 0.0, 1.0, 1.0 / 3))
    result = run(folder, tmp_path / "yard", base, area=area)
    whole = run(folder, tmp_path / "whole", base)
    changed = [
        not np.array_equal(one.content.features, other.content.features)
        for one, other in zip(result.examples.items, whole.examples.items, strict=True)
    ]
    assert all(changed), "the patch moves below the upper third of the picture"
    assert "classify FILE --model" in next_steps(result)
    assert next_steps(result).endswith(" --region 0,0,1,0.333333")

    more = write_examples(tmp_path / "more", {"red": RED}, each=1, first_seed=600)
    listener = Recorder()
    added = run(more, result.output, None, add=True, listener=listener)
    assert added.area == load_examples(result.output, load_bundle(result.output).spec).area == area
    [note] = listener.notes
    assert note.startswith("new films are read with the part of the picture of the examples before: region [0.0, 0.0,")
    again = run(more, tmp_path / "whole", None, add=True, area=area, listener=(listener := Recorder()))
    assert np.array_equal(added.examples.items[-1].content.features, again.examples.items[-1].content.features)
    assert listener.notes == ["the examples before show another part of the picture: all of it"]


def test_stretches_of_one_film(base: Bundle, tmp_path: Path) -> None:
    folder = write_examples(tmp_path / "films", {"red": RED}, each=4)
    for number in range(5):
        write_example(folder / f"day{number}.mp4", BLUE, seed=900 + number, seconds=3)
    rows = [f"day{number}.mp4,0.5,2.0,blue\nday{number}.mp4,2.1,2.4,red\n" for number in range(5)]
    (folder / "marks.csv").write_text("file,start_s,end_s,label\n" + "".join(rows))
    result = run(folder, tmp_path / "yard", base)
    marked = [item for item in result.examples.items if item.row.name == "day0.mp4"]
    (long,) = (item for item in marked if item.row.label == "blue")
    (short,) = (item for item in marked if item.row.label == "red")
    assert long.content.times.min() >= 0.5
    assert long.content.times.max() <= 2.0
    assert len(long.content.windows) > 1
    assert (2.1 - 0.01) <= short.content.times.min() <= short.content.times.max() <= 2.4
    groups = {number: item.row.group for number, item in enumerate(marked)}
    assert len(set(groups.values())) == 1


def test_a_window_of_another_length(films: Path, base: Bundle, tmp_path: Path) -> None:
    result = run(films, tmp_path / "yard", base, window_s=0.4)
    assert (base.spec.chunks, load_bundle(result.output).spec.chunks) == (4, 2)
    assert top(result.output, write_example(tmp_path / "new.mp4", GREEN, seed=508, seconds=2)) == "green"
    with pytest.raises(UsageError, match=r"have windows of 0.4 s; leave out --window"):
        run(films, result.output, None, add=True, window_s=0.8)
    for window_s in (0.0, -1.0, float("nan"), float("inf"), 1e6):
        with pytest.raises(UsageError, match=r"--window \S+: must be 0.2 to 12.8 seconds"):
            run(films, tmp_path / "other", base, window_s=window_s)
