"""Edits of the configuration by the page: checked, undone, and never on top of an edit by hand."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.bundles import make_brightness_bundle

from streamclf.config.service import ServiceConfig, load_config
from streamclf.errors import ConfigError
from streamclf.subscribers.web.settings import config_storage
from streamclf.subscribers.web.settings.config_editor import MAX_UNDO, ConfigConflictError, ConfigEditor
from streamclf.subscribers.web.settings.edits import (
    EDIT,
    AddStream,
    PauseStream,
    RemoveAction,
    RemoveStream,
    SetAction,
)
from streamclf.subscribers.web.settings.overview import Thresholds, describe_settings
from streamclf.supervisor.checked_config import CheckedConfig

FILE = """\
# Cameras of the office
model: brightness
streams:
  door: {url: "rtsp://${DOOR_USER}:${DOOR_PASSWORD}@10.0.0.5/s"}  # front
  yard:
    url: 'rtsp://10.0.0.6/s'
    actions: {bright: {on: 0.9}}
actions:
  bright: {on: 0.8, off: 0.5, min_s: 0.6, cooldown_s: 3}  # the lamp
publish: {events: "tcp://127.0.0.1:5995", replay: "tcp://127.0.0.1:5996"}
"""
PASSWORD = "geheim-4711"
NO_SERVICE: Any = SimpleNamespace(heartbeat=None, away_since=None, read=lambda stream, of: None)
"""The live view of a service that has sent no event yet."""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOOR_USER", "operator")
    monkeypatch.setenv("DOOR_PASSWORD", "door-password-1")
    make_brightness_bundle(tmp_path / "brightness")
    file = tmp_path / "service.yaml"
    file.write_text(FILE)
    return file


@pytest.fixture
def editor(path: Path) -> ConfigEditor:
    return ConfigEditor(path)


def lines_changed(path: Path) -> list[str]:
    """Return the lines of the file that FILE does not have, and with - those that it lacks."""
    now, before = path.read_text().splitlines(), FILE.splitlines()
    return [f"-{line}" for line in before if line not in now] + [f"+{line}" for line in now if line not in before]


def test_a_stream_is_added_paused_and_removed_and_the_rest_stays(editor: ConfigEditor, path: Path) -> None:
    now = editor.apply(AddStream(stream="hall", url="rtsp://10.0.0.7/live", name="Hall"), editor.read().version).now
    assert lines_changed(path) == ["+  hall:", '+    name: "Hall"', '+    url: "rtsp://10.0.0.7/live"']
    assert now.config is not None
    assert now.config.streams["hall"].url == "rtsp://10.0.0.7/live"
    now = editor.apply(PauseStream(stream="door", paused=True), now.version).now
    assert now.config is not None
    assert not now.config.streams["door"].enabled
    now = editor.apply(PauseStream(stream="door", paused=False), now.version).now
    assert load_config(path).streams["door"].enabled
    now = editor.apply(RemoveStream(stream="hall"), now.version).now
    for _ in range(4):
        now = editor.undo(now.version).now
    assert path.read_text() == FILE
    with pytest.raises(ConfigError, match="no change to undo"):
        editor.undo(now.version)


def test_only_the_thresholds_that_differ_are_written(editor: ConfigEditor, path: Path) -> None:
    values = {"off": 0.5, "min_s": 0.6, "cooldown_s": 3.0}
    now = editor.apply(SetAction(label="bright", on=0.7, **values), editor.read().version).now
    assert lines_changed(path)[1:] == ["+  bright: {on: 0.7, off: 0.5, min_s: 0.6, cooldown_s: 3}  # the lamp"]
    now = editor.apply(SetAction(label="bright", stream="door", on=0.7, **{**values, "off": 0.2}), now.version).now
    assert now.config is not None
    assert now.config.actions_of("door").labels["bright"].off == 0.2
    assert "actions: {bright: {off: 0.2}}" in path.read_text()
    now = editor.apply(SetAction(label="dark", on=1, off=0, min_s=0, cooldown_s=0), now.version).now
    assert "  dark: {on: 1, off: 0, min_s: 0, cooldown_s: 0}\n" in path.read_text()
    with pytest.raises(ConfigError, match=r"actions\.dark: these are the present values"):
        editor.apply(SetAction(label="dark", on=1, off=0, min_s=0, cooldown_s=0), now.version)
    now = editor.apply(RemoveAction(label="dark"), now.version).now
    now = editor.apply(RemoveAction(label="bright", stream="yard"), now.version).now
    assert "yard:\n    url: 'rtsp://10.0.0.6/s'\nactions:" in path.read_text()
    with pytest.raises(ConfigError, match="not in the file; it may come from `defaults`"):
        editor.apply(RemoveAction(label="bright", stream="yard"), now.version)


def test_thresholds_of_the_model_are_shown_and_replaced(tmp_path: Path, path: Path) -> None:
    """The file sets no `on` for `dark`; the default values of `on` and `off` are written when they are wanted."""
    make_brightness_bundle(tmp_path / "trained", thresholds={"dark": 0.4})
    path.write_text(FILE.replace("model: brightness", "model: trained").replace("# the lamp", "\n  dark: {min_s: 2}"))
    editor = ConfigEditor(path)
    shown = describe_settings(editor, editor.read(), NO_SERVICE)
    assert shown.actions["dark"] == Thresholds(on=0.4, off=0.25, min_s=2, cooldown_s=3)
    assert shown.streams[0].actions["dark"].on == 0.4
    edit = SetAction(label="dark", on=0.8, off=0.5, min_s=2, cooldown_s=3)
    now = editor.apply(edit, editor.read().version).now
    assert "  dark: {min_s: 2, on: 0.8, off: 0.5}\n" in path.read_text()
    assert describe_settings(editor, now, NO_SERVICE).actions["dark"].on == 0.8


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"change": "add_stream", "stream": "door", "camera": 0}, "streams.door: exists already"),
        ({"change": "add_stream", "stream": "hall"}, "give one of camera, url"),
        ({"change": "add_stream", "stream": "hall", "camera": 0, "url": "rtsp://h/x"}, "camera and url was given"),
        ({"change": "add_stream", "stream": "hall", "url": "absent.mp4"}, "no such file"),
        ({"change": "add_stream", "stream": "hall", "url": "gopher://h/x"}, "scheme"),
        ({"change": "add_stream", "stream": "hall", "url": "a\x00b"}, "url: a control character"),
        ({"change": "add_stream", "stream": "hall", "camera": "a\x1bb"}, "camera: a control character"),
        ({"change": "add_stream", "stream": "hall", "url": "rtsp://${NO_SUCH}@h/x"}, "NO_SUCH is not set"),
        ({"change": "add_stream", "stream": "hall", "camera": 0, "name": "a\nb"}, "line break"),
        ({"change": "remove_stream", "stream": "gone"}, "no such stream"),
        ({"change": "pause_stream", "stream": "gone", "paused": True}, "no such stream"),
        (
            {"change": "set_action", "label": "wave", "on": 0.8, "off": 0.5, "min_s": 1, "cooldown_s": 1},
            "no label wave",
        ),
        ({"change": "set_action", "label": "bright", "on": 0.4, "off": 0.5, "min_s": 1, "cooldown_s": 1}, "below on"),
        ({"change": "remove_action", "label": "dark"}, "not in the file"),
    ],
)
def test_the_checks_of_the_service_refuse_an_edit_and_nothing_is_written(
    editor: ConfigEditor, path: Path, edit: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        editor.apply(EDIT.validate_python(edit), editor.read().version)
    assert path.read_text() == FILE
    assert editor.undoable(editor.read()) is None
    assert sorted(each.name for each in path.parent.iterdir()) == ["brightness", "service.yaml"]


def test_the_last_stream_stays(editor: ConfigEditor) -> None:
    now = editor.apply(RemoveStream(stream="door"), editor.read().version).now
    with pytest.raises(ConfigError, match="the last stream cannot be removed; pause it instead"):
        editor.apply(RemoveStream(stream="yard"), now.version)


def test_an_edit_by_hand_is_shown_and_not_overwritten(editor: ConfigEditor, path: Path) -> None:
    seen = editor.read()
    by_hand = FILE.replace("10.0.0.6/s", "admin:secret-by-hand@10.0.0.9/s")
    path.write_text(by_hand)
    with pytest.raises(ConfigConflictError, match="changed after the page had read it") as caught:
        editor.apply(PauseStream(stream="door", paused=True), seen.version)
    assert path.read_text() == by_hand
    assert "+    url: 'rtsp://***@10.0.0.9/s'" in caught.value.theirs
    assert "enabled: false" in caught.value.ours
    assert "secret-by-hand" not in caught.value.theirs + caught.value.ours
    assert "${DOOR_USER}:${DOOR_PASSWORD}@10.0.0.5" in caught.value.ours
    editor.apply(PauseStream(stream="door", paused=True), editor.read().version)
    assert "admin:secret-by-hand@10.0.0.9" in path.read_text()
    assert "enabled: false" in path.read_text()


def test_an_edit_by_hand_keeps_its_place_against_undo(editor: ConfigEditor, path: Path) -> None:
    editor.apply(PauseStream(stream="door", paused=True), editor.read().version)
    path.write_text(path.read_text() + "# by hand\n")
    with pytest.raises(ConfigConflictError, match="nothing was undone") as caught:
        editor.undo(editor.read().version)
    assert "+# by hand" in caught.value.theirs
    assert editor.undoable(editor.read()) is None
    assert "# by hand" in path.read_text()


def test_a_save_while_the_checks_run_is_not_overwritten(path: Path) -> None:
    def check_slowly(config: ServiceConfig) -> CheckedConfig:
        if "hall" in config.streams:
            path.write_text(FILE + "# saved meanwhile\n")
        return CheckedConfig(config, {})

    editor = ConfigEditor(path, check_slowly)
    with pytest.raises(ConfigConflictError, match="in this moment"):
        editor.apply(AddStream(stream="hall", camera=0), editor.read().version)
    assert path.read_text() == FILE + "# saved meanwhile\n"


def test_a_version_that_the_page_never_read_is_a_conflict(editor: ConfigEditor, path: Path) -> None:
    with pytest.raises(ConfigConflictError, match="older version") as caught:
        editor.apply(PauseStream(stream="door", paused=True), "0" * 24)
    assert "Cameras of the office" in caught.value.theirs
    assert path.read_text() == FILE


def test_the_number_of_edits_to_undo_is_bounded(editor: ConfigEditor) -> None:
    now = editor.read()
    for number in range(MAX_UNDO + 3):
        now = editor.apply(PauseStream(stream="door", paused=number % 2 == 0), now.version).now
    undone = 0
    while editor.undoable(now):
        now = editor.undo(now.version).now
        undone += 1
    assert MAX_UNDO - 2 <= undone <= MAX_UNDO


def test_a_file_with_a_mistake_can_be_repaired_by_an_edit(editor: ConfigEditor, path: Path) -> None:
    path.write_text(FILE.replace("10.0.0.6/s'", "10.0.0.6/s'\n    no_such_key: 1"))
    broken = editor.read()
    assert broken.config is None
    assert "unknown key" in (broken.error or "")
    editor.apply(RemoveStream(stream="yard"), broken.version)
    assert set(load_config(path).streams) == {"door"}


def test_mode_and_link_of_the_file_stay(editor: ConfigEditor, path: Path, tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    path.rename(real / "service.yaml")
    (real / "service.yaml").chmod(0o640)
    path.symlink_to("real/service.yaml")
    editor.apply(PauseStream(stream="door", paused=True), editor.read().version)
    assert path.is_symlink()
    assert stat.S_IMODE((real / "service.yaml").stat().st_mode) == 0o640
    assert "enabled: false" in (real / "service.yaml").read_text()
    assert [each.name for each in real.iterdir()] == ["service.yaml"]


def test_line_breaks_and_the_byte_order_mark_stay(editor: ConfigEditor, path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + FILE.replace("\n", "\r\n").encode())
    editor.apply(PauseStream(stream="yard", paused=True), editor.read().version)
    data = path.read_bytes()
    assert data.startswith(b"\xef\xbb\xbf#")
    assert data.count(b"\n") == data.count(b"\r\n") == FILE.count("\n") + 1


def test_a_read_only_file_is_not_replaced(editor: ConfigEditor, path: Path) -> None:
    path.chmod(0o444)
    assert "read-only" in (editor.read_only or "")
    with pytest.raises(ConfigError, match="read-only for this process; edit it by hand"):
        editor.apply(PauseStream(stream="door", paused=True), editor.read().version)
    assert path.read_text() == FILE


def test_two_pages_edit_one_after_the_other(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_storage, "LOCK_S", 0.1)
    first, second = ConfigEditor(path), ConfigEditor(path)
    version = second.read().version
    with config_storage.exclusive(path), pytest.raises(ConfigError, match="another page edits it; try again"):
        first.apply(PauseStream(stream="door", paused=True), first.read().version)
    first.apply(PauseStream(stream="door", paused=True), first.read().version)
    with pytest.raises(ConfigConflictError):
        second.apply(PauseStream(stream="yard", paused=True), version)


def test_concurrent_edits_lose_none(path: Path) -> None:
    editor = ConfigEditor(path)

    def add(name: str) -> None:
        while True:
            try:
                editor.apply(AddStream(stream=name, camera=int(name[1:])), editor.read().version)
            except ConfigConflictError:
                continue
            return

    threads = [threading.Thread(target=add, args=(f"s{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert set(load_config(path).streams) == {"door", "yard", *(f"s{number}" for number in range(6))}


@pytest.mark.parametrize(
    "edit",
    [
        AddStream(stream="hall", url="rtsp://10.0.0.7/live", user="admin", password=f"p@ss '{PASSWORD}"),
        AddStream(stream="hall", url=f"rtsp://admin:p%40ss%20%27{PASSWORD}@10.0.0.7/live"),
    ],
)
def test_a_password_goes_into_the_file_of_variables_alone(editor: ConfigEditor, path: Path, edit: AddStream) -> None:
    applied = editor.apply(edit, editor.read().version)
    assert PASSWORD not in path.read_text() + applied.difference + applied.description
    assert '"rtsp://${HALL_USER}:${HALL_PASSWORD}@10.0.0.7/live"' in path.read_text()
    secret = path.with_suffix(".env")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert load_config(path).streams["hall"].url == f"rtsp://admin:p%40ss%20%27{PASSWORD}@10.0.0.7/live"
    again = AddStream(stream="hall2", url="rtsp://10.0.0.8/live", password=PASSWORD)
    editor.apply(again, applied.now.version)
    assert secret.read_text().count("HALL_PASSWORD=") == 1
    assert "HALL2_PASSWORD=geheim-4711\n" in secret.read_text()


def test_variables_of_others_stay_and_names_are_never_used_twice(editor: ConfigEditor, path: Path) -> None:
    secret = path.with_suffix(".env")
    secret.write_text("# mine\nHALL_PASSWORD='an older one'")
    secret.chmod(0o600)
    edit = AddStream(stream="hall", url="rtsp://10.0.0.7/live", user="admin", password=PASSWORD)
    editor.apply(edit, editor.read().version)
    assert secret.read_text().startswith("# mine\nHALL_PASSWORD='an older one'\n")
    assert "${HALL_2_USER}:${HALL_2_PASSWORD}@" in path.read_text()


def test_a_refused_edit_leaves_no_password_behind(editor: ConfigEditor, path: Path) -> None:
    edit = AddStream(stream="hall", url="rtsp://10.0.0.7:99999/live", user="admin", password=PASSWORD)
    with pytest.raises(ConfigError, match="port") as caught:
        editor.apply(edit, editor.read().version)
    assert PASSWORD not in str(caught.value)
    assert not path.with_suffix(".env").exists()
    assert path.read_text() == FILE


@pytest.mark.parametrize(
    "url",
    [
        f"rtsp://10.0.0.7/live?token={PASSWORD}",
        f"rtsp://admin:{PASSWORD}${{DOOR_PASSWORD}}@10.0.0.7/live",
        f"http://admin:{PASSWORD}@10.0.0.7/x?password={PASSWORD}",
        f"admin:{PASSWORD}@10.0.0.7/live",
    ],
)
def test_a_secret_that_has_no_safe_place_is_refused_and_not_repeated(
    editor: ConfigEditor, path: Path, url: str
) -> None:
    with pytest.raises(ConfigError, match="in plain text") as caught:
        editor.apply(AddStream(stream="hall", url=url), editor.read().version)
    assert PASSWORD not in str(caught.value)
    assert path.read_text() == FILE


def test_attributes_of_another_owner_are_kept_or_the_edit_is_refused(
    editor: ConfigEditor, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a file of another user")
    os.chown(path, 12345, 12345)
    editor.apply(PauseStream(stream="door", paused=True), editor.read().version)
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12345)
    before = path.read_text()

    def refuse(*_: object) -> None:
        raise PermissionError(1, "not permitted")

    monkeypatch.setattr(os, "fchown", refuse)
    with pytest.raises(ConfigError, match="belongs to user 12345"):
        editor.apply(PauseStream(stream="door", paused=False), editor.read().version)
    assert path.read_text() == before
