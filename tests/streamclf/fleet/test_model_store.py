"""Bundles are copied in pieces, and verified before they are used."""

from __future__ import annotations

import os
import time

import pytest

from engines.bundle import SPEC_FILE
from streamclf.builtin_models import BUNDLES
from streamclf.errors import ConfigError
from streamclf.fleet import model_store
from streamclf.fleet.model_store import LEFTOVER_S, ModelStore, Upload, describe_bundle

BUNDLE = BUNDLES / "camera-events"


@pytest.fixture
def described(monkeypatch):
    monkeypatch.setattr(model_store, "PIECE_BYTES", 10_000)
    return describe_bundle(BUNDLE)


def upload(store, model, files):
    receiver = Upload(store, model, files)
    for name, (size, _) in files.items():
        data = (BUNDLE / name).read_bytes()
        for offset in range(0, size, 10_000):
            receiver.add(name, offset, data[offset : offset + 10_000])
    receiver.finish()


def test_a_bundle_goes_from_store_to_store_in_pieces(tmp_path, described):
    model, files = described
    head, node = ModelStore(tmp_path / "head"), ModelStore(tmp_path / "node")
    upload(head, model, files)
    assert head.files(model) == files
    sizes = []

    def read(*piece):
        data = head.read_piece(*piece)
        sizes.append(len(data))
        return data

    node.fetch(model, head.files(model), read)
    assert describe_bundle(node.path_of(model)) == (model, files)
    assert max(sizes) == 10_000
    assert [path.name for path in (tmp_path / "node").iterdir()] == [model]


def test_a_damaged_bundle_never_appears(tmp_path, described):
    model, files = described
    store = ModelStore(tmp_path)
    with pytest.raises(ConfigError, match="arrived damaged"):
        store.fetch(model, files, lambda _, name, offset: bytes(min(10_000, files[name][0] - offset)))
    assert not store.has(model)
    assert not [*tmp_path.iterdir()]


def test_what_a_killed_process_has_left_of_a_bundle_is_removed_after_a_day(tmp_path, described):
    model, files = described
    store = ModelStore(tmp_path)
    old, new = Upload(store, model, files), Upload(store, model, files)
    name = next(iter(files))
    for each in (old, new):
        each.add(name, 0, b"x")
    first, second = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    day_ago_s = time.time() - LEFTOVER_S - 1
    os.utime(first, (day_ago_s, day_ago_s))
    upload(store, model, files)
    assert {path.name for path in tmp_path.iterdir()} == {second.name, model}


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "other.bin"])
def test_only_files_of_a_bundle_are_read_and_written(tmp_path, described, name):
    model, files = described
    store = ModelStore(tmp_path)
    with pytest.raises(ConfigError, match="no file of a bundle"):
        store.read_piece(model, name, 0)
    receiver = Upload(store, model, files)
    with pytest.raises(ConfigError, match="does not belong there"):
        receiver.add(name, 0, b"x")
    receiver.abandon()
    with pytest.raises(ConfigError, match="does not have this hash"):
        store.fetch(model, {**files, name: (1, "0" * 64)}, lambda *_: b"x")
    with pytest.raises(ConfigError, match="not a SHA-256"):
        store.path_of("../../etc")
    assert not [*tmp_path.iterdir()]


def test_pieces_out_of_order_or_too_long_are_refused(tmp_path, described):
    model, files = described
    receiver = Upload(ModelStore(tmp_path), model, files)
    for offset, piece in ((5, b"x"), (0, bytes(files[SPEC_FILE][0] + 1))):
        with pytest.raises(ConfigError, match="does not belong there"):
            receiver.add(SPEC_FILE, offset, piece)
    receiver.abandon()


def test_a_source_that_ends_early_is_noticed(tmp_path, described):
    model, files = described
    with pytest.raises(ConfigError, match="does not have"):
        ModelStore(tmp_path).fetch(model, files, lambda *_: b"")
