"""A bundle loads only if each of its files matches its spec."""

import io
import json
import os
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from support.bundles import make_brightness_bundle

from engines.bundle import MAX_LABEL_CHARS, Bundle, load_bundle, write_spec
from engines.errors import BundleError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_brightness_bundle(tmp_path / "brightness").path


def edit_spec(path: Path, **changes: object) -> None:
    spec = json.loads((path / "spec.json").read_text())
    (path / "spec.json").write_text(json.dumps({**spec, **changes}))


def rehash(path: Path) -> Bundle:
    """Write the spec again with the sha256 of the present files."""
    fields = json.loads((path / "spec.json").read_text())
    del fields["files"]
    return write_spec(path, fields)


def test_a_label_has_up_to_256_characters_of_any_kind(path: Path) -> None:
    labels = ["x" * MAX_LABEL_CHARS, "[/x] \x1b[31m 🚗 cafe\u0301"]
    edit_spec(path, labels=labels)
    assert list(load_bundle(path).spec.labels) == labels
    edit_spec(path, labels=["x" * (MAX_LABEL_CHARS + 1), "bright"])
    with pytest.raises(BundleError, match=r"labels\.0: String should have at most 256 characters"):
        load_bundle(path)


def test_a_label_is_found_with_composed_and_with_decomposed_accents(path: Path) -> None:
    edit_spec(path, labels=["cafe\u0301", "Größe"])
    spec = load_bundle(path).spec
    assert [spec.find_label(name) for name in ("café", "cafe\u0301", "Gro\u0308ße", "grösse")] == [
        "cafe\u0301", "cafe\u0301", "Größe", None,
    ]  # fmt: skip


def test_a_bundle_loads_and_computes_its_durations(path: Path) -> None:
    spec = load_bundle(path).spec
    assert spec.id == "brightness@1"
    assert spec.chunk_s == pytest.approx(0.2)
    assert spec.window_s == pytest.approx(0.8)
    assert spec.chunk_shape == (2, 16, 16, 3)


@pytest.mark.parametrize("name", ["encoder.onnx", "head.onnx", "golden.npz", "README.md"])
def test_an_altered_file_is_refused_and_named(path: Path, name: str) -> None:
    data = bytearray((path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (path / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name}: sha256 is .* altered or damaged"):
        load_bundle(path)


@pytest.mark.parametrize("name", ["encoder.onnx", "golden.npz"])
def test_a_missing_file_is_named(path: Path, name: str) -> None:
    (path / name).unlink()
    with pytest.raises(BundleError, match=rf"{name}: cannot be read \(No such file"):
        load_bundle(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": []}, "labels: Tuple should have at least 1 item"),
        ({"labels": ["one"]}, "labels: with activation softmax give at least two; one label needs activation sigmoid"),
        ({"labels": ["same", "same"]}, "each label may occur only once"),
        ({"fps": 0}, "fps"),
        ({"surprise": 1}, "surprise"),
        ({"files": {"encoder.onnx": "0" * 64}}, "no entry for head.onnx"),
        ({"name": "../evil"}, "name"),
        ({"activation": "tanh"}, r"activation: Input should be 'softmax' or 'sigmoid'"),
        ({"thresholds": {"dim": 0.5}}, "thresholds: 'dim' is not a label of this model"),
        ({"thresholds": {"dark": 0}}, r"thresholds\.dark: Input should be greater than 0"),
        ({"thresholds": {"dark": 1.01}}, r"thresholds\.dark: Input should be less than or equal to 1"),
        ({"thresholds": {"dark": float("nan")}}, r"thresholds\.dark: Input should be"),
        ({"hides_scene": ["fog"]}, "hides_scene: 'fog' is not a label of this model"),
        ({"hides_scene": ["dark"], "chunks": 1}, "hides_scene: a window of one chunk cannot show"),
        ({"feature_parts": {"mean": 2}}, "feature_parts: the sizes sum to 2, the feature has 3 numbers"),
        ({"feature_parts": {"mean": 3, "rest": 0}}, r"feature_parts\.rest: Input should be greater than or equal to 1"),
        ({"feature_parts": {"a b": 3}}, r"feature_parts\.a b"),
        ({"feature_shape": [3, 1], "feature_parts": {"mean": 3}}, r"feature has 2 axes, feature_shape=\(3, 1\)"),
        ({"format": 1}, r"format=1: this version reads format 2; export the bundle again"),
    ],
)
def test_a_bad_spec_is_refused_with_its_key(path: Path, changes: dict[str, object], message: str) -> None:
    edit_spec(path, **changes)
    with pytest.raises(BundleError, match=message):
        load_bundle(path)


def test_a_spec_keeps_the_order_of_parts_and_leaves_out_defaults(path: Path) -> None:
    """A version that does not know the new keys reads a spec that does not need them."""
    fields = load_bundle(path).spec.model_dump(exclude={"files"})
    write_spec(path, fields)
    assert not {"activation", "thresholds", "feature_parts", "short_clips", "decode", "hides_scene"} & set(
        json.loads((path / "spec.json").read_text())
    )
    parts, thresholds = {"motion": 1, "appearance": 2}, {"bright": 0.3}
    write_spec(path, {**fields, "activation": "sigmoid", "thresholds": thresholds, "feature_parts": parts})
    spec = load_bundle(path).spec
    assert list(spec.feature_parts.items()) == list(parts.items())
    assert spec.activation == "sigmoid"
    np.testing.assert_allclose(spec.label_thresholds, [0.5, 0.3])
    edit_spec(path, activation="sigmoid", labels=["one"], thresholds={})
    assert load_bundle(path).spec.labels == ("one",)
    write_spec(path, {**fields, "decode": "exact"})
    assert load_bundle(path).spec.decode == "exact"
    write_spec(path, {**fields, "hides_scene": ["dark"]})
    assert load_bundle(path).spec.hides_scene == ("dark",)
    edit_spec(path, decode="fast")
    with pytest.raises(BundleError, match="decode: Input should be 'auto' or 'exact'"):
        load_bundle(path)


def test_a_file_name_with_a_path_is_refused(path: Path) -> None:
    spec = json.loads((path / "spec.json").read_text())
    edit_spec(path, files={**spec["files"], "../../etc/passwd": "0" * 64})
    with pytest.raises(BundleError, match="not a plain file name"):
        load_bundle(path)


def test_a_spec_that_is_not_json_is_refused(path: Path) -> None:
    (path / "spec.json").write_bytes(b"\x00\x01")
    with pytest.raises(BundleError, match=r"spec\.json"):
        load_bundle(path)


def test_a_directory_without_a_spec_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is .* a bundle\?"):
        load_bundle(tmp_path)
    with pytest.raises(BundleError, match="no such bundle"):
        load_bundle(tmp_path / "absent")


def test_a_golden_clip_of_another_shape_is_refused(path: Path) -> None:
    np.savez(path / "golden.npz", frames=np.zeros((1, 2, 3), np.uint8), logits=np.zeros(2, np.float32))
    bundle = rehash(path)
    with pytest.raises(BundleError, match=r"frames are uint8 \(1, 2, 3\)"):
        bundle.golden()


def test_a_pickle_in_the_golden_clip_is_never_loaded(path: Path) -> None:
    np.savez(path / "golden.npz", frames=np.array([{"a": 1}], dtype=object), logits=np.zeros(2, np.float32))
    bundle = rehash(path)
    with pytest.raises(BundleError, match=r"not a golden clip|frames are object"):
        bundle.golden()


def test_a_pipe_in_place_of_a_file_is_refused_without_blocking(tmp_path: Path) -> None:
    bundle = make_brightness_bundle(tmp_path / "b")
    (bundle.path / "head.onnx").unlink()
    os.mkfifo(bundle.path / "head.onnx")
    with pytest.raises(BundleError, match=r"head\.onnx: not a regular file"):
        load_bundle(bundle.path)


def test_a_pipe_in_place_of_the_spec_is_refused_without_blocking(path: Path) -> None:
    (path / "spec.json").unlink()
    os.mkfifo(path / "spec.json")
    with pytest.raises(BundleError, match=r"spec\.json: not a regular file"):
        load_bundle(path)


def test_a_spec_of_more_than_a_mebibyte_is_refused(path: Path) -> None:
    (path / "spec.json").write_bytes(b" " * (1 << 20) + b"{}")
    with pytest.raises(BundleError, match="longer than 1048576 bytes"):
        load_bundle(path)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"height": 4096, "width": 4096, "chunks": 1024, "frames_per_chunk": 64}, "frames"),
        ({"feature_shape": [1 << 40]}, "features"),
    ],
)
def test_a_spec_of_huge_windows_is_refused(path: Path, changes: dict[str, object], kind: str) -> None:
    edit_spec(path, **changes)
    with pytest.raises(BundleError, match=f"{kind} of one window take .* at most 1073741824"):
        load_bundle(path)


def npy(shape: tuple[int, ...], descr: str = "|u1", data: bytes = b"") -> bytes:
    """Make the bytes of an .npy file, whose header need not describe `data`."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + data


def write_zip(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


FRAMES, LOGITS = npy((4, 2, 16, 16, 3), data=bytes(6144)), npy((2,), "<f4", bytes(8))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"frames.npy": npy((1 << 50,)), "logits.npy": LOGITS}, r"frames are uint8 \(1125899906842624,\)"),
        ({"frames.npy": npy((4, 2, 16, 16, 3), data=b"abc"), "logits.npy": LOGITS}, "3 of 6144 bytes"),
        ({"frames.npy": FRAMES, "logits.npy": npy((2,), "<f8", bytes(16))}, "logits are float64"),
        ({"frames.npy": FRAMES, "logits.npy": npy((2,), ">f4", bytes(8))}, "logits are >f4"),
        ({"frames.npy": FRAMES}, "logits.npy"),
        ({"frames.npy": b"", "logits.npy": LOGITS}, "not a golden clip"),
        ({"frames.npy": b"\x93NUMPY\1\0\x10\0{'descr': [[[[[", "logits.npy": LOGITS}, "not a golden clip"),
    ],
)
def test_a_golden_clip_with_another_content_is_refused(path: Path, members: dict[str, bytes], message: str) -> None:
    write_zip(path / "golden.npz", members)
    with pytest.raises(BundleError, match=message):
        rehash(path).golden()


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\3\4garbage", b"\x93NUMPY\1\0" + b"garbage" * 10, npy((3,), "<f8", bytes(24))],
    ids=["empty", "broken zip", "broken npy", "npy"],
)
def test_a_golden_clip_that_is_no_archive_is_refused(path: Path, content: bytes) -> None:
    (path / "golden.npz").write_bytes(content)
    with pytest.raises(BundleError, match="not a golden clip"):
        rehash(path).golden()


def test_a_golden_clip_that_expands_is_refused_before_it_is_read(path: Path) -> None:
    """64 MiB of zeros are 64 KiB in the archive. Python's own peak shows that they are not expanded."""
    write_zip(path / "golden.npz", {"frames.npy": npy((1 << 26,), data=bytes(1 << 26)), "logits.npy": LOGITS})
    bundle = rehash(path)
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match="frames are uint8"):
            bundle.golden()
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_an_archive_with_an_unlimited_compression_is_refused(path: Path) -> None:
    write_zip(path / "golden.npz", {"frames.npy": FRAMES, "logits.npy": LOGITS}, zipfile.ZIP_LZMA)
    with pytest.raises(BundleError, match="compression 14"):
        rehash(path).golden()
