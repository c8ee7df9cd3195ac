"""Files of keys are regular, bounded, and closed to other users; no path makes a reader wait."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from streamclf.errors import UsageError
from streamclf.net.trusted_files import check_key_directory, check_secrecy, read_key_file, read_small_file


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkfifo, "a pipe, socket or device, not a file"),
        (_socket, "cannot be read"),
        (lambda path: path.symlink_to("/dev/zero"), "a pipe, socket or device, not a file"),
        (lambda path: path.symlink_to(path.name), "cannot be read"),
        (lambda path: path.symlink_to("nowhere"), "No such file"),
        (Path.mkdir, "Is a directory"),
        (lambda path: path.write_bytes(b"x" * 101), "101 bytes, more than the limit: at most 100; give a file"),
    ],
    ids=["pipe", "socket", "device", "link to itself", "link to nothing", "directory", "large"],
)
def test_what_is_no_small_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    path = tmp_path / "file"
    make(path)
    with pytest.raises(UsageError, match=message):
        read_small_file(path, max_bytes=100, remedy="give a file")


def test_a_path_with_a_nul_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="NUL"):
        read_small_file(tmp_path / "a\0b", max_bytes=100, remedy="give a file")


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"key")
    (tmp_path / "link").symlink_to("file")
    assert read_key_file(tmp_path / "link", max_bytes=3, remedy="") == (
        b"key",
        (tmp_path / "file").stat().st_mode & 0o777,
    )


@pytest.mark.parametrize("mode", [0o666, 0o620, 0o602])
def test_a_file_that_others_may_write_holds_no_keys(tmp_path: Path, mode: int) -> None:
    (tmp_path / "file").write_bytes(b"key")
    (tmp_path / "file").chmod(mode)
    with pytest.raises(UsageError, match=f"mode {mode:04o} lets other users change it; chmod go-w"):
        read_key_file(tmp_path / "file", max_bytes=3, remedy="")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_file_of_another_user_holds_no_keys(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"key")
    os.chown(tmp_path / "file", 4242, -1)
    with pytest.raises(UsageError, match="belongs to user 4242"):
        read_key_file(tmp_path / "file", max_bytes=3, remedy="")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o601])
def test_a_secret_that_others_may_read_is_refused(mode: int) -> None:
    with pytest.raises(UsageError, match=f"mode {mode:04o} lets others read the secret"):
        check_secrecy(Path("file"), mode)
    check_secrecy(Path("file"), 0o400)


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775])
def test_a_directory_that_others_may_write_holds_no_keys(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "allowed"
    folder.mkdir()
    check_key_directory(folder)
    folder.chmod(mode)
    with pytest.raises(UsageError, match="lets other users change it"):
        check_key_directory(folder)
    with pytest.raises(UsageError, match="No such file"):
        check_key_directory(tmp_path / "none")
