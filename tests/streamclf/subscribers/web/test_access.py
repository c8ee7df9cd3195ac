from __future__ import annotations

import time

import pytest

from streamclf.subscribers.web.access import COOKIE, Access, Request, local_path
from streamclf.subscribers.web.sessions import FREE_ATTEMPTS, LoginLimit, Sessions, Signer

TOKEN = "0123456789abcdef-token"


def request(
    path: str = "/live", method: str = "GET", *, query: str = "", websocket: bool = False, **headers: str
) -> Request:
    headers = {key.replace("_", "-"): value for key, value in headers.items()}
    headers.setdefault("host", "127.0.0.1:8080")
    return Request(path, query, method, headers, "192.0.2.7", websocket)


def status(access: Access, made: Request) -> int:
    refusal = access.check(made)
    return 200 if refusal is None else refusal.status


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1:8080", 200),
        ("localhost", 200),
        ("[::1]:8080", 200),
        ("cameras.example:8080", 403),
        ("127.0.0.1.example", 403),
        ("", 403),
        ("[", 403),
        ("127.0.0.1@evil.example", 403),
    ],
)
def test_a_name_that_resolves_to_this_machine_is_refused_without_a_login(host: str, expected: int) -> None:
    """DNS rebinding: a web page resolves its own name to 127.0.0.1 and reads the cameras."""
    assert status(Access(None), request(host=host)) == expected


@pytest.mark.parametrize("header", ["x_forwarded_for", "forwarded", "x_real_ip", "via"])
def test_a_proxy_needs_a_token(header: str) -> None:
    """A proxy with its default options sends `Host: 127.0.0.1`, and would show the page to the network."""
    assert status(Access(None), request(**{header: "198.51.100.1"})) == 403


@pytest.mark.parametrize(
    ("method", "websocket", "origin", "expected"),
    [
        ("POST", False, "http://127.0.0.1:8080", 200),
        ("POST", False, "http://127.0.0.1:9999", 403),
        ("POST", False, "http://evil.example", 403),
        ("POST", False, "null", 403),
        ("DELETE", False, "https://evil.example", 403),
        ("GET", True, "http://127.0.0.1:8080", 200),
        ("GET", True, "http://evil.example", 403),
        ("GET", True, "http://localhost:8080", 403),
        ("GET", False, "http://[", 200),
        ("POST", False, "http://[", 403),
    ],
)
def test_changes_and_websockets_need_the_own_origin(method: str, websocket: bool, origin: str, expected: int) -> None:
    assert status(Access(None), request(method=method, websocket=websocket, origin=origin)) == expected


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_page_may_link_but_not_embed(site: str) -> None:
    access = Access(None)
    assert status(access, request(sec_fetch_site=site, sec_fetch_mode="no-cors")) == 403
    assert status(access, request(sec_fetch_site=site, sec_fetch_mode="navigate")) == 200
    assert status(access, request(method="POST", sec_fetch_site=site, sec_fetch_mode="navigate")) == 403


def test_nothing_but_the_login_form_answers_without_a_login() -> None:
    access = Access(TOKEN)
    for path in ("/", "/live", "/api/streams", "/_nicegui_ws/socket.io", "/static/live.js", "/ws", "/login/", "/Login"):
        refusal = access.check(request(path, host="cams.example"))
        assert refusal is not None, path
        assert refusal.status == 401, path
    assert status(access, request("/login", host="cams.example")) == 200


def test_a_login_grants_access_until_it_ends() -> None:
    access = Access(TOKEN)
    session = access.sessions.begin()
    made = request(host="cams.example", cookie=f"other=1; {COOKIE}={session}")
    assert status(access, made) == 200
    assert status(access, request(cookie=f"{COOKIE}={session[:-1]}x")) == 401
    access.sessions.end(session)
    assert status(access, made) == 401


def test_a_restart_keeps_logins_and_a_new_token_ends_them() -> None:
    session = Access(TOKEN).sessions.begin()
    assert Access(TOKEN).sessions.is_valid(session)
    assert not Access(TOKEN + "x").sessions.is_valid(session)


def test_a_change_with_a_cookie_and_without_an_origin_is_refused() -> None:
    access = Access(TOKEN)
    cookie = f"{COOKIE}={access.sessions.begin()}"
    assert status(access, request("/api/streams", "POST", cookie=cookie)) == 403
    assert status(access, request("/api/streams", "POST", cookie=cookie, origin="http://127.0.0.1:8080")) == 200
    assert status(access, request("/api/streams", "POST", authorization=f"Bearer {TOKEN}")) == 200


def test_the_bearer_token_opens_rest_only() -> None:
    access = Access(TOKEN)
    assert status(access, request("/api/streams", authorization=f"Bearer {TOKEN}")) == 200
    assert status(access, request("/api/streams", authorization=f"bearer  {TOKEN}")) == 200
    assert status(access, request("/live", authorization=f"Bearer {TOKEN}")) == 401
    assert status(access, request("/api/streams", authorization=f"Basic {TOKEN}")) == 401


@pytest.mark.parametrize(
    "query",
    ["token=abc", "TOKEN=", f"q={TOKEN}", f"q=a{TOKEN}b", "access_token=1", "&".join("a=1" for _ in range(100))],
)
def test_a_token_in_the_address_is_refused_even_with_a_login(query: str) -> None:
    access = Access(TOKEN)
    refusal = access.check(request(query=query, cookie=f"{COOKIE}={access.sessions.begin()}"))
    assert refusal is not None
    assert refusal.status == 400
    assert TOKEN not in refusal.reason


@pytest.mark.parametrize("path", ["/live", "/api/streams", "/login", "/shared/clip/x"])
def test_an_address_confirms_no_guess_of_the_token_without_a_login(path: str) -> None:
    access = Access(TOKEN)
    assert status(access, request(path, query=f"q={TOKEN}")) == status(access, request(path, query="q=wrong"))


def test_wrong_tokens_are_slowed_down_for_one_address_only() -> None:
    access = Access(TOKEN)
    answers = [access.try_token("wrong", "192.0.2.7") for _ in range(FREE_ATTEMPTS)]
    assert [each.status for each in answers if each] == [401] * FREE_ATTEMPTS
    limited = access.try_token(TOKEN, "192.0.2.7")
    assert limited is not None
    assert limited.status == 429
    assert int(limited.headers["Retry-After"]) >= 1
    assert access.try_token(TOKEN, "192.0.2.8") is None


def test_bearer_tokens_are_limited_like_logins() -> None:
    access = Access(TOKEN)
    made = request("/api/streams", authorization="Bearer wrong-wrong-wrong")
    assert [status(access, made) for _ in range(FREE_ATTEMPTS + 1)] == [401] * FREE_ATTEMPTS + [429]


def test_waits_double_and_end() -> None:
    limit = LoginLimit()
    waits = []
    for _ in range(FREE_ATTEMPTS + 12):
        limit.note_failure("192.0.2.1", 100.0)
        waits.append(limit.wait_s("192.0.2.1", 100.0))
    assert waits[: FREE_ATTEMPTS - 1] == [0.0] * (FREE_ATTEMPTS - 1)
    assert waits[FREE_ATTEMPTS - 1 : FREE_ATTEMPTS + 2] == [2.0, 4.0, 8.0]
    assert waits[-1] == 300.0
    assert limit.wait_s("192.0.2.1", 401.0) == 0.0
    limit.note_success("192.0.2.1")
    limit.note_failure("192.0.2.1", 402.0)
    assert limit.wait_s("192.0.2.1", 402.0) == 0.0


def test_an_ipv6_client_cannot_take_another_address_of_its_network() -> None:
    limit = LoginLimit()
    for number in range(FREE_ATTEMPTS):
        limit.note_failure(f"2001:db8::{number:x}", 0.0)
    assert limit.wait_s("2001:db8::ffff", 0.0) > 0
    assert limit.wait_s("2001:db8:0:1::1", 0.0) == 0


def test_failures_of_many_addresses_take_bounded_memory() -> None:
    limit = LoginLimit()
    for number in range(5000):
        limit.note_failure(f"10.0.{number // 250}.{number % 250}", 0.0)
    assert len(limit._failures) <= 4096


def test_a_signature_is_valid_for_its_purpose_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    signer = Signer(TOKEN)
    signed = signer.sign("clip", "abc", 60.0)
    assert signer.verify("clip", signed) == "abc"
    assert signer.verify("session", signed) is None
    assert signer.verify("clip", signed.replace("abc", "abd")) is None
    for broken in ("", ".", "..", "a.b.c", "abc.999999999999.", signed + "x", "é.1.é"):
        assert signer.verify("clip", broken) is None
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 61)
    assert signer.verify("clip", signed) is None


def test_ended_sessions_take_bounded_memory() -> None:
    sessions = Sessions(Signer(TOKEN))
    first = sessions.begin()
    sessions.end(first)
    for _ in range(10):
        sessions.end("no session")
    assert len(sessions._revoked) == 1


@pytest.mark.parametrize(
    "hostile",
    [
        "//evil.example",
        "/\\evil.example",
        "http://evil.example",
        "javascript:alert(1)",
        "",
        "/login",
        "/a\nb",
        "/" + "a" * 3000,
    ],
)
def test_the_login_leads_to_paths_of_this_page_only(hostile: str) -> None:
    assert local_path(hostile) == "/"
    assert local_path("/live/door?x=1") == "/live/door?x=1"


@pytest.mark.parametrize("cookie", [f"{COOKIE}=" + "a" * 9000, f"{COOKIE}", ";;;=", f'{COOKIE}="\\', f"{COOKIE}=é"])
def test_broken_cookies_are_no_login(cookie: str) -> None:
    assert status(Access(TOKEN), request(cookie=cookie)) == 401
