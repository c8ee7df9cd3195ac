"""A stored position survives a kill and a full disk, and belongs to one process of one outlet."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamclf.errors import JournalError, UsageError
from streamclf.events.positions import Position
from streamclf.runtime import durable_files
from streamclf.subscribers.checkpoint import PositionFile

EPOCH = "9f" * 16


def test_a_saved_position_is_restored(tmp_path: Path) -> None:
    path = tmp_path / "p"
    with PositionFile(path, "mqtt") as file:
        assert (file.position, file.memory) == (None, {})
        file.save(Position(EPOCH, 7), {"streams": {"door": [1, None, True]}})
    path.with_name("p.new").write_bytes(b'{"v":1,"outl')  # left by a crash during the next save
    with PositionFile(path, "mqtt") as file:
        assert (file.position, file.memory) == (Position(EPOCH, 7), {"streams": {"door": [1, None, True]}})
        file.save(Position(EPOCH, 8), {})
    assert path.stat().st_mode & 0o077 == 0
    with PositionFile(path, "mqtt") as file:
        assert (file.position, file.memory) == (Position(EPOCH, 8), {})


def test_a_position_file_belongs_to_one_process_of_one_outlet(tmp_path: Path) -> None:
    path = tmp_path / "p"
    with PositionFile(path, "mqtt") as file:
        file.save(Position(EPOCH, 7), {})
        with pytest.raises(JournalError, match="another process uses it"):
            PositionFile(path, "mqtt")
    with pytest.raises(
        UsageError, match=r"belongs to `streamclf mqtt`; give `streamclf webhook` a position file of its own"
    ):
        PositionFile(path, "webhook")
    with PositionFile(path, "mqtt"):
        pass  # the refused openings released the lock


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b'{"v":1}', b'{"v":1,"outlet":"mqtt","epoch":"x","offset":7}', b"\xff" * 100,
     b'{"v":2,"outlet":"mqtt","epoch":"%s","offset":7}' % EPOCH.encode()],
)  # fmt: skip
def test_another_file_is_refused_and_unchanged(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p").write_bytes(content)
    with pytest.raises(UsageError, match=r"not a position file of streamclf .* give another path, or remove the file"):
        PositionFile(tmp_path / "p", "mqtt")
    assert (tmp_path / "p").read_bytes() == content


def test_a_file_that_cannot_be_used_is_an_error_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="create it first"):
        PositionFile(tmp_path / "none" / "p", "mqtt")
    (tmp_path / "directory").mkdir()
    with pytest.raises(JournalError, match="cannot be read"):
        PositionFile(tmp_path / "directory", "mqtt")
    with PositionFile(tmp_path / "p", "mqtt") as file:
        file.save(Position(EPOCH, 7), {})

        def full(fd: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(durable_files.os, "fsync", full)
        with pytest.raises(JournalError, match="No space left on device; no event is lost"):
            file.save(Position(EPOCH, 8), {})
        assert file.position == Position(EPOCH, 7)
    assert not (tmp_path / "p.new").exists()
