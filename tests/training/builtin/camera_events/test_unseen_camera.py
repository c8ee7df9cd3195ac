"""The pieces of the benchmark `unseen_camera`, on tiny film that is made here."""

import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from benchmarks import unseen_camera as benchmark
from benchmarks import unseen_excerpts as making
from benchmarks.unseen_camera import Judged
from support.unseen.cover import SHARES, cover, draw_material
from support.unseen.film import STRENGTHS, Disturb, cropped, to_light
from support.unseen.fourth_normal import FOURTH_NORMAL
from support.unseen.groups import GROUPS
from support.unseen.photographed import LIST, draw_photograph, photographed_group

from engines.arrays import F64, U8
from streamclf.builtin_models import find_bundle
from streamclf.commands.report.accuracy import wilson_interval

SPEC = find_bundle("camera-events").spec
MATERIALS = {name: material for group in GROUPS.values() for name, material in group.materials.items()}
EVERY_FORM = [
    pytest.param(disturb, label, form, id=f"{label} {form}")
    for group in GROUPS.values()
    for label, (disturb, forms) in group.forms.items()
    for form in forms
]


def film(seconds: float = 2.4, height: int = 64, width: int = 86) -> tuple[U8, F64]:
    """Make a textured scene in which nothing moves, at 15 fps."""
    scene = np.random.default_rng(5).integers(60, 200, (height // 8 + 1, width // 8 + 1, 3))
    scene = np.kron(scene, np.ones((8, 8, 1)))[:height, :width].astype(np.uint8)
    times_s = np.arange(int(seconds * 15)) / 15
    return np.repeat(scene[None], len(times_s), 0), times_s


@pytest.mark.parametrize("material", MATERIALS)
def test_focus_takes_away_the_detail_of_a_material(material: str) -> None:
    sharp, soft = (
        draw_material(MATERIALS[material], 64, 86, np.random.default_rng(1), in_focus=focus) for focus in (True, False)
    )
    assert sharp.shape == soft.shape == (64, 86, 3)
    assert np.abs(np.diff(soft, axis=1)).mean() < np.abs(np.diff(sharp, axis=1)).mean()


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("coming", [True, False])
def test_a_cover_hides_its_share_of_the_picture(share: str, coming: bool) -> None:
    frames, times_s = film()
    for seed in range(6):
        rng = np.random.default_rng(seed)
        found = cover(rng, frames, times_s, MATERIALS["black cap"], in_focus=True, share=share, coming=coming)
        hidden = (found.frames[-1].max(axis=-1) < 60).mean()
        low, high = SHARES[share]
        assert low - 0.04 < hidden < high + 0.04
        if coming:
            assert np.array_equal(found.frames[0], frames[0])
            assert found.counts(0.8, 2.4)
            assert not found.counts(0.0, 0.9)
        else:
            assert (found.frames[0].max(axis=-1) < 60).mean() == pytest.approx(hidden, abs=0.03)


@pytest.mark.parametrize(("disturb", "label", "form"), EVERY_FORM)
def test_a_stronger_disturbance_changes_the_film_more(disturb: Disturb, label: str, form: str) -> None:
    frames, times_s = film()
    changes = []
    for strength in STRENGTHS:
        found = disturb(np.random.default_rng(3), frames, times_s, form, strength)
        assert found.frames.dtype == np.uint8
        assert len(found.frames) == len(times_s)
        assert any(found.counts(start_s, start_s + 1.6) for start_s in np.arange(0, 0.9, 0.2))
        pixels = found.frames.astype(float)
        same = frames if pixels.shape == frames.shape and label != "moved" else pixels[:1]
        changes.append(np.abs(pixels - same).mean())
    assert 0 < changes[0] < changes[2]


def shares_of_change(change: str, seed: int, seconds: float = 4.05) -> F64:
    """Return for each frame how much of its picture a change of `FOURTH_NORMAL` alters by more than 25 grey levels."""
    frames, times_s = film(seconds)
    found = FOURTH_NORMAL[change](np.random.default_rng(seed), frames, times_s)
    assert found.frames.dtype == np.uint8
    assert found.frames.shape == frames.shape
    assert not np.array_equal(found.frames, frames)
    assert any(found.counts(start_s, start_s + 1.6) for start_s in np.arange(0, 2.5, 0.2))
    return np.asarray((np.abs(found.frames - frames.astype(float)).max(axis=-1) > 25).mean(axis=(1, 2)))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("change", "limit"),
    [
        ("exposure step", 0.0),
        ("bright passer", 0.35),
        ("key-frame pulsing", 0.3),
        ("weak noise", 0.01),
        ("rain", 0.1),
        ("insect", 0.1),
    ],
)
def test_a_change_leaves_most_of_the_picture_as_it_was(change: str, limit: float, seed: int) -> None:
    assert shares_of_change(change, seed).max() <= limit


@pytest.mark.parametrize("seed", range(4))
def test_an_object_that_passes_hides_much_of_the_picture_for_less_than_four_tenths_of_a_second(seed: int) -> None:
    shares = shares_of_change("passing object", seed)
    assert shares.max() > 0.4
    assert (shares > 0.4).sum() / 15 < 0.4
    assert (shares > 0).sum() / 15 < 0.6


@pytest.mark.parametrize("seed", range(4))
def test_the_exposure_changes_once_by_less_than_a_tenth_of_the_light(seed: int) -> None:
    frames, times_s = film(4.05)
    found = FOURTH_NORMAL["exposure step"](np.random.default_rng(seed), frames, times_s)
    light = to_light(found.frames).mean(axis=(1, 2, 3)) / to_light(frames).mean(axis=(1, 2, 3))
    assert 0.04 < abs(light[-1] - light[0]) < 0.1
    assert (np.abs(np.diff(light)) > 0.001).sum() <= 3


def test_a_crop_without_motion_stays_the_same() -> None:
    seen = cropped(film()[0])
    assert seen.shape[1:3] == (48, 64)
    assert np.array_equal(seen[0], seen[-1])


def test_a_short_film_is_played_forwards_and_backwards() -> None:
    frames = np.arange(4, dtype=np.uint8)[:, None, None, None].repeat(3, 3)
    part, times_s = making.part_of(frames, np.arange(4) / 10, 0.0, 0.95)
    assert part[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3]
    assert times_s == pytest.approx(np.arange(10) / 10)


def test_a_held_picture_has_noise_alone() -> None:
    held, times_s = making.hold(film()[0][0], 1.0, np.random.default_rng(0))
    assert len(held) == len(times_s) == 15
    assert 0 < np.abs(held[0].astype(int) - held[1]).mean() < 5


def test_excerpts_are_written_read_and_judged(tmp_path: Path) -> None:
    """A black cap over all and a strong gain are beyond doubt, so that the shipped model must name both."""
    rng = np.random.default_rng(2)
    covers, plan = [("black cap", False, "100 %", False)], [("noise", "gain", "strong")]
    found = list(making.undisturbed("made", "film", film(), SPEC, rng))
    found += making.disturbed("made", GROUPS["first"], film(), SPEC, rng, covers, plan)
    found += making.changed("made", "film", film(), SPEC, rng, ["weak noise"])
    assert [each.label for each in found] == ["normal", "normal", "covered", "noise", "normal"]
    assert [len(each.starts) for each in found[:3]] == [13, 13, 5]
    assert len(found[4].starts) == 13
    assert all(each.chunks.shape[1:] == SPEC.chunk_shape for each in found)
    engine = benchmark.open_for(find_bundle("camera-events"))
    judged = benchmark.judge(engine, iter(found[:4]))
    engine.close()
    assert set(judged[2].predicted) == {"covered"}
    assert set(judged[3].predicted) == {"noise"}
    benchmark.draw_sheet(iter(found), tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_the_figures_count_windows_and_their_interval_counts_excerpts() -> None:
    def judged(label: str, predicted: list[str], **properties: str) -> Judged:
        probabilities = [0.5] * len(predicted)
        return Judged(film="f", label=label, properties=properties, predicted=predicted, probabilities=probabilities)

    cap = {"group": "first", "material": "black cap", "share": "100 %", "focus": "in focus", "arrival": "coming"}
    mud, fur = {**cap, "group": "second", "material": "mud"}, {**cap, "group": "third", "material": "fur"}
    sand = {**cap, "group": "fourth", "material": "sand"}
    felt = {**cap, "group": "fifth", "material": "felt pad"}
    sock = {**cap, "group": "sixth", "material": "striped sock"}
    leather = {**cap, "group": "photographed", "material": "owner/leather", "photograph": "a.png"}
    every = [
        judged("normal", ["normal"] * 9 + ["moved"], kind="film", view="whole"),
        judged("covered", ["covered", "normal"], **cap),
        judged("covered", [], **cap),
        judged("noise", ["noise"] * 4, group="first", form="salt", strength="weak"),
        judged("covered", ["covered"] * 3, **mud),
        judged("covered", ["covered", "moved", "moved", "noise"], **fur),
        judged("covered", ["covered", "noise"], **sand),
        judged("covered", ["covered"], **felt),
        judged("covered", ["covered", "normal", "noise", "noise", "covered"], **sock),
        judged("covered", ["covered", "moved", "noise", "noise", "noise"], **leather),
        judged("normal", ["flashing", "normal"], group=making.CHANGED, kind="rain", scene="film"),
    ]
    by_group = benchmark.compute_by_group(every, SPEC.labels)
    figures = by_group["groups"]["first"]
    assert figures["false_alarms"] == pytest.approx(0.1)
    assert figures["balanced_accuracy"] == pytest.approx((0.9 + 0.5 + 1) / 3, abs=1e-4)
    covered = figures["labels"]["covered"]
    assert (covered["excerpts"], covered["windows"], covered["right"]) == (1, 2, 1)
    assert figures["parts"]["covered by material and arrival"]["black cap, coming"] == covered
    assert figures["confusion"]["normal"][SPEC.labels.index("moved")] == 1
    assert by_group["by_group"]["covered by group and arrival"]["first, coming"] == covered
    assert by_group["by_group"]["covered by group"]["second"]["windows"] == 3
    assert by_group["by_group"]["covered by group"]["third"]["recall"] == 0.25
    assert by_group["by_group"]["covered by group"]["fourth"]["recall"] == 0.5
    assert by_group["by_group"]["normal by kind"]["rain"]["recall"] == 0.5
    assert by_group["by_group"]["covered by group"]["fifth"]["recall"] == 1.0
    assert by_group["by_group"]["covered by group"]["sixth"]["recall"] == 0.4
    assert list(by_group["groups"]) == [*GROUPS, "photographed"]
    assert by_group["groups"]["photographed"]["parts"]["covered by material"]["owner/leather"]["recall"] == 0.2
    for name in ("second", "third", "fourth", "fifth", "sixth", "photographed"):
        assert by_group["groups"][name]["labels"]["normal"] == figures["labels"]["normal"]
        assert by_group["groups"][name]["labels"]["noise"]["windows"] == 0
    text = benchmark.as_text(by_group)
    assert "| noise | 1 | 4 | 100.0 % |" in text
    assert "| owner/leather | 1 | 5 | 20.0 % |" in text
    assert "group photographed: false alarms 0.1, balanced accuracy 0.55" in text
    assert json.loads(json.dumps(by_group)) == by_group


def test_wilson_interval() -> None:
    """Compare with the values of Newcombe (1998), table I: 81 of 263, and 0 of 20."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=2e-4)
    assert wilson_interval(0, 20) == pytest.approx((0, 0.1611), abs=2e-4)


def test_a_missing_film_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"b_slice11\.mp4: no such file; --data is the folder"):
        next(making.excerpts(tmp_path, SPEC))


def photographs(folder: Path, *, colours: dict[str, int]) -> Path:
    """Write grey photographs, 40 pixels high and 60 wide, and their list with one more of the split `train`."""
    rows = ["path,split,licence,repository,commit,source,sha256", "none.png,train,MIT,owner/other,1,a,0"]
    for name, grey in colours.items():
        cv2.imwrite(str(folder / name), np.full((40, 60), grey, np.uint8))
        rows.append(f"{name},held-out,MIT,owner/{name[0]},1,a,0")
    (folder / LIST).write_text("\n".join(rows) + "\n")
    return folder


def test_held_out_photographs_are_materials_that_count_under_their_repository(tmp_path: Path) -> None:
    group = photographed_group(photographs(tmp_path, colours={"a0.png": 40, "a1.png": 200, "b0.png": 120}))
    assert {name: each.source for name, each in group.materials.items()} == {
        "a0.png": "owner/a",
        "a1.png": "owner/a",
        "b0.png": "owner/b",
    }
    covers, others = making._plan(group, 8)
    assert others == [[]] * 8
    counts = Counter(name for each in covers for name, *_ in each)
    assert sum(counts.values()) == 16
    assert max(counts.values()) - min(counts.values()) <= 1
    plan = [("a1.png", True, "100 %", False)]
    [found] = making.disturbed("made", group, film(), SPEC, np.random.default_rng(3), plan, ())
    assert found.label == "covered"
    assert (found.properties["group"], found.properties["material"]) == ("photographed", "owner/a")
    assert found.properties["photograph"] == "a1.png"
    assert len(found.starts) == 5


def test_a_photograph_is_shown_in_part_and_stretched_little(tmp_path: Path) -> None:
    """Its two colours count the column and the row of a pixel, so that the part's place and size can be read."""
    rows, columns = np.indices((100, 200), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), np.dstack([columns, rows, 0 * rows])[..., ::-1])
    for seed in range(8):
        shown = draw_photograph(tmp_path / "a.png", np.random.default_rng(seed), 300, 400)
        assert shown.shape == (300, 400, 3)
        wide, tall = np.ptp(shown[..., 0]) + 1, np.ptp(shown[..., 1]) + 1
        assert 58 <= tall <= 102
        assert 0.87 < wide / tall / (4 / 3) < 1.13


def test_wrong_photographs_are_named(tmp_path: Path) -> None:
    folder = photographs(tmp_path, colours={"a.png": 40})
    (folder / "a.png").write_bytes(b"none")
    group = photographed_group(folder)
    with pytest.raises(SystemExit, match=r"a\.png: OpenCV reads no picture"):
        group.materials["a.png"].draw(np.random.default_rng(0), 20, 20)
    (folder / "a.png").unlink()
    with pytest.raises(SystemExit, match=r"a\.png: no such file; .*films\.csv:3 lists it"):
        photographed_group(folder)
    (folder / LIST).write_text("path,split,repository\na.png,train,owner/a\n")
    with pytest.raises(SystemExit, match="no photograph has the split 'held-out'"):
        photographed_group(folder)
    (folder / LIST).write_text("path,split,repository\na.png,held-out\n")
    with pytest.raises(SystemExit, match=r"films\.csv:2: no path, split or repository"):
        photographed_group(folder)


def test_missing_photographs_leave_their_group_out_and_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark.find_groups(tmp_path) == GROUPS
    assert "'photographed' is left out; `python -m training download materials`" in capsys.readouterr().err
    assert [*benchmark.find_groups(photographs(tmp_path, colours={"a.png": 40}))] == [*GROUPS, "photographed"]
    assert capsys.readouterr().err == ""


def test_no_material_or_form_is_in_two_groups() -> None:
    materials = [name for group in GROUPS.values() for name in group.materials]
    assert len(set(materials)) == len(materials)
    forms = [(label, form) for group in GROUPS.values() for label, (_, names) in group.forms.items() for form in names]
    assert len(set(forms)) == len(forms)


def test_each_group_has_its_own_seed_and_all_labels_of_disturbances() -> None:
    assert len({group.seed for group in GROUPS.values()}) == len(GROUPS)
    for group in GROUPS.values():
        assert {*group.forms, "normal", "covered"} == set(SPEC.labels)


@pytest.mark.parametrize("name", GROUPS)
def test_a_plan_gives_each_film_its_covers_and_one_form_of_each_label(name: str) -> None:
    group = GROUPS[name]
    covers, others = making._plan(group, 59)
    assert {len(each) for each in covers} == {group.covers_per_film}
    counts = Counter(material for each in covers for material, *_ in each)
    assert set(counts) == set(group.materials)
    assert max(counts.values()) < 2 * min(counts.values())
    assert [[label for label, *_ in each] for each in others] == [list(group.forms)] * 59
