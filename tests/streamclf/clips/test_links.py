"""Links to clips: valid for one file and a time, and only with the page's token."""

from __future__ import annotations

import time

import pytest

from streamclf.clips.links import LINK_PREFIX, clip_link, linked_path
from streamclf.net.signer import Signer

PATH = "door/2026-11-29/120000-000-fight.drawn.jpg"
SIGNER = Signer("a-token-of-the-page-0123456789")


def test_a_link_names_its_file_at_the_end() -> None:
    link = clip_link(SIGNER, PATH, 60)
    assert link.startswith(LINK_PREFIX)
    assert link.endswith(f"/{PATH}")
    assert "a-token" not in link
    again = Signer("a-token-of-the-page-0123456789")
    assert linked_path(again, link) == linked_path(again, link.removeprefix(LINK_PREFIX)) == PATH


def test_a_link_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    link = clip_link(SIGNER, PATH, 60)
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s + 59)
    assert linked_path(SIGNER, link) == PATH
    monkeypatch.setattr(time, "time", lambda: now_s + 61)
    assert linked_path(SIGNER, link) is None


def test_a_changed_link_is_refused() -> None:
    link = clip_link(SIGNER, PATH, 60)
    seal = link.removeprefix(LINK_PREFIX).split("/")[0]
    expires, signature = seal.split(".")
    other = "door/2026-11-29/120000-000-other.jpg"
    for wrong in (
        link[:-3],
        link.replace(PATH, other),
        f"{LINK_PREFIX}{int(expires) + 9999}.{signature}/{PATH}",
        f"{LINK_PREFIX}{expires}.{signature[:-1]}/{PATH}",
        f"{LINK_PREFIX}{expires}.\u00e9{signature}/{PATH}",
        f"{LINK_PREFIX}{expires}/{PATH}",
        f"{LINK_PREFIX}{'9' * 5000}.{signature}/{PATH}",
        f"{LINK_PREFIX}{seal}/../{PATH}",
        f"{LINK_PREFIX}{seal}/door/../{PATH}",
        LINK_PREFIX,
        "",
    ):
        assert linked_path(SIGNER, wrong) is None
    assert linked_path(Signer("another-token-0123456789"), link) is None
    assert linked_path(Signer(None), link) is None


def test_a_signature_for_another_purpose_is_no_link() -> None:
    signed = SIGNER.sign("session", PATH, 60)
    assert linked_path(SIGNER, f"{LINK_PREFIX}{signed.removeprefix(PATH + '.')}/{PATH}") is None
