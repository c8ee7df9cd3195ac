"""The cache returns only engines that this user built on this machine for the same key."""

import errno
import json
import logging
import mmap
import multiprocessing
import os
import time
from pathlib import Path

import pytest
from support.full_disk import files_of_at_most

from engines.cache import ALIGNMENT, MAGIC, SECRET_FILE, CompiledCache, StaleBlobError, open_cache

KEY = {"model": "m", "precision": "fp16", "device": "card A", "version": "8.6"}
SUBJECT = ("model", "precision")
BLOB = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STREAMCLF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def get_or_build(cache: CompiledCache, blob: bytes = BLOB, *, wait_s: float = 5.0) -> tuple[bytes, bool]:
    """Return the engine, and whether it had to be built."""
    built = []

    def build() -> bytes:
        built.append(True)
        return blob

    return cache.get_or_build("plan", restore=lambda data: data, build=build, wait_s=wait_s), bool(built)


def cache_of(**changes: str) -> CompiledCache:
    return open_cache({**KEY, **changes}, subject=SUBJECT)


def test_an_engine_that_was_built_is_returned_from_the_cache() -> None:
    assert get_or_build(cache_of()) == (BLOB, True)
    assert get_or_build(cache_of(), b"another") == (BLOB, False)
    directory = cache_of().directory
    assert directory is not None
    assert (directory.stat().st_mode & 0o777, (directory / "plan").stat().st_mode & 0o777) == (0o700, 0o600)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[:-100], "truncated: 10140 of 10240 bytes"),
        (lambda data: data[: len(MAGIC) + 20], "truncated"),
        (lambda data: b"", "not a file of this cache"),
        (lambda data: b"\x7fELF" + data, "not a file of this cache"),
        (lambda data: data[:-1] + b"x", "sha256"),
        (lambda data: data.replace(b'"seal": "', b'"seal": "0'), "not built by this user on this machine"),
        (lambda data: data.replace(b'"card A"', b'"card B"'), "not built by this user on this machine"),
        (lambda data: data.replace(b'"seal": "', '"seal": "é'.encode()), "not built by this user on this machine"),
        (lambda data: MAGIC + b"{}\n" + BLOB, "manifest is damaged"),
        (lambda data: MAGIC + b"[" * 60_000 + b"\n" + BLOB, "manifest is damaged"),
    ],
)
def test_a_damaged_or_forged_file_is_logged_and_built_again(
    damage: object, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    get_or_build(cache_of())
    directory = cache_of().directory
    assert directory is not None
    path = directory / "plan"
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert get_or_build(cache_of()) == (BLOB, True)
    assert reason in caplog.text
    assert "building the engine again" in caplog.text
    assert get_or_build(cache_of()) == (BLOB, False)


def test_a_file_copied_from_another_key_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    get_or_build(cache_of(device="card B"))
    theirs, ours = cache_of(device="card B").directory, cache_of().directory
    assert theirs is not None
    assert ours is not None
    (ours / "plan").write_bytes((theirs / "plan").read_bytes())
    assert get_or_build(cache_of(), b"ours") == (b"ours", True)
    assert "built for device card B (here: card A)" in caplog.text


def test_a_cache_copied_from_another_machine_is_not_used(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    get_or_build(cache_of())
    (root / SECRET_FILE).write_bytes(b"x" * 32)
    assert get_or_build(cache_of()) == (BLOB, True)
    assert "not built by this user on this machine" in caplog.text


def test_a_build_logs_that_an_engine_for_another_device_exists(caplog: pytest.LogCaptureFixture) -> None:
    get_or_build(cache_of())
    get_or_build(cache_of(device="card B", version="10.3"))
    assert "was built for device card A (here: card B), version 8.6 (here: 10.3)" in caplog.text


def test_bytes_that_the_library_refuses_are_built_again(caplog: pytest.LogCaptureFixture) -> None:
    get_or_build(cache_of())

    def refuse_first(data: memoryview) -> bytes:
        if data == BLOB:
            raise StaleBlobError("serialisation version 3, expected 4")
        return bytes(data)

    cache = cache_of()
    assert cache.get_or_build("plan", restore=refuse_first, build=lambda: b"new") == b"new"
    assert "serialisation version 3, expected 4; building the engine again" in caplog.text


def test_a_full_disk_leaves_no_partial_file(caplog: pytest.LogCaptureFixture) -> None:
    cache = cache_of()
    assert cache.directory is not None
    get_or_build(cache_of(device="other"))  # creates the secret
    with files_of_at_most(4096):
        assert get_or_build(cache) == (BLOB, True)
    assert "cannot be cached: File too large" in caplog.text
    assert "STREAMCLF_CACHE" in caplog.text
    assert [path.name for path in cache.directory.iterdir()] == [".plan.lock"]


def test_a_directory_that_other_users_may_write_to_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    directory = cache_of().directory
    assert directory is not None
    directory.chmod(0o777)
    assert cache_of().directory is None
    assert "other users may write there" in caplog.text
    assert get_or_build(cache_of()) == (BLOB, True)


@pytest.mark.parametrize(
    ("call", "answer", "reason"),
    [("access", False, "the directory is read-only"), ("getuid", -1, "the directory belongs to another user")],
)
def test_a_directory_of_others_or_without_write_access_is_not_used(
    call: str, answer: int, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, call, lambda *arguments: answer)
    assert cache_of().directory is None
    assert reason in caplog.text
    assert "set STREAMCLF_CACHE" in caplog.text


def test_without_a_directory_nothing_is_cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STREAMCLF_CACHE", str(tmp_path / "file"))
    assert cache_of().directory is None


def _compile_once(root: str, log: str, barrier: object) -> None:
    os.environ["STREAMCLF_CACHE"] = root

    def build() -> bytes:
        with Path(log).open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.5)  # long enough that the other processes ask meanwhile
        return BLOB

    barrier.wait(60)  # type: ignore[attr-defined]
    assert cache_of().get_or_build("plan", restore=lambda data: data, build=build, wait_s=20) == BLOB


def test_only_one_of_three_processes_compiles(root: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    log = tmp_path / "builds"
    workers = [context.Process(target=_compile_once, args=(str(root), str(log), barrier)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(log.read_text().split()) == 1


def test_waiting_for_another_build_has_a_deadline(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "engine")

    def build_while_another_waits() -> bytes:
        assert get_or_build(cache_of(), b"theirs", wait_s=0.2) == (b"theirs", True)
        return BLOB

    cache_of().get_or_build("plan", restore=lambda data: data, build=build_while_another_waits)
    assert "waiting up to 0 s" in caplog.text
    assert "building it here too" in caplog.text


def test_a_new_engine_is_a_mapping_of_its_file_and_begins_at_a_round_address() -> None:
    found = cache_of().get_or_build("plan", restore=lambda data: data, build=lambda: BLOB)
    assert isinstance(found.obj, mmap.mmap)
    assert found == BLOB
    assert (len(found.obj) - len(found)) % ALIGNMENT == 0
    found[:4] = b"\0\0\0\0"  # the mapping is private
    assert cache_of().load("plan") == BLOB


def test_the_manifest_is_readable_json() -> None:
    get_or_build(cache_of())
    directory = cache_of().directory
    assert directory is not None
    head = (directory / "plan").read_bytes().split(b"\n")[:2]
    assert head[0] == MAGIC.strip()
    manifest = json.loads(head[1])
    assert manifest["key"] == KEY
    assert manifest["bytes"] == len(BLOB)


def test_only_the_user_can_read_the_secret(root: Path) -> None:
    get_or_build(cache_of())
    assert (root / SECRET_FILE).stat().st_mode & 0o777 == 0o600


def test_a_full_disk_leaves_no_partial_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The secret is the first file of a new cache; without it no engine can be sealed, so none is cached."""
    monkeypatch.setenv("STREAMCLF_CACHE", str(tmp_path / "cache"))
    cache = open_cache({"graph": "a"}, subject=("graph",))
    link = os.link

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("engines.cache.os.link", full)
    cache.store("plan", b"code")
    assert "cannot be cached: No space left on device" in caplog.text
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    monkeypatch.setattr("engines.cache.os.link", link)
    cache.store("plan", b"code")
    assert cache.load("plan") == b"code"
