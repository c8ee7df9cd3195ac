from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from streamclf.net.signer import Signer
from streamclf.subscribers.web import middleware
from streamclf.subscribers.web.access import COOKIE, Access
from streamclf.subscribers.web.middleware import MAX_BODY_BYTES, PageGuard

fastapi = pytest.importorskip("fastapi", reason="the extra [web] is not installed")

TOKEN = "0123456789abcdef-token"
PAGE = {"accept": "text/html"}


@contextmanager
def client(token: str | None = None, *, full: bool = False, base: str = "http://127.0.0.1:8080") -> Iterator[Any]:
    from streamclf.subscribers.web.pages.login import add_login_routes

    async def show(request: Request) -> Response:
        return HTMLResponse("<p>plain</p>")

    async def show_nicegui(request: Request) -> Response:
        body = "<script>1</script>" + request.headers.get("x-forwarded-prefix", "")
        return HTMLResponse(body, headers={"X-NiceGUI-Content": "page"})

    async def take(request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    access = Access(token)
    app = fastapi.FastAPI()
    add_login_routes(app, access)
    inner = Starlette(
        routes=[Route("/live", show_nicegui), Route("/plain", show), Route("/api/take", take, methods=["POST"])]
    )
    app.mount("/", inner)
    with TestClient(PageGuard(app, access, lambda: full), base_url=base, follow_redirects=False) as made:
        made.access = access
        yield made


def log_in(made: Any, token: str, **fields: str) -> Any:
    form = made.get("/login")
    hidden = re.search(r'name="form" value="([^"]+)"', form.text)
    assert hidden
    data = {"form": hidden[1], "token": token, "next": "/live", **fields}
    return made.post("/login", data=data, headers={"origin": "http://cams.example"})


def test_every_answer_has_the_restricting_headers() -> None:
    with client() as made:
        for path in ("/live", "/plain", "/none", "/login"):
            headers = made.get(path).headers
            assert headers["x-frame-options"] == "DENY"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "same-origin"
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "unsafe-eval" not in made.get("/plain").headers["content-security-policy"]


def test_scripts_of_a_page_have_a_nonce_that_no_other_answer_has() -> None:
    with client() as made:
        first, second = made.get("/live"), made.get("/live")
        nonce = re.search(r"'nonce-([^']+)'", first.headers["content-security-policy"])
        assert nonce
        assert first.text == f'<script nonce="{nonce[1]}">1</script>'
        assert nonce[1] not in second.text
        assert "'unsafe-inline'" not in first.headers["content-security-policy"].partition("script-src")[2]


def test_a_header_that_nicegui_would_write_into_its_pages_does_not_reach_it() -> None:
    with client() as made:
        assert "evil" not in made.get("/live", headers={"X-Forwarded-Prefix": "evil"}).text


def test_a_browser_without_a_login_is_sent_to_the_form_and_back() -> None:
    with client(TOKEN, base="http://cams.example") as made:
        answer = made.get("/live?a=1", headers=PAGE)
        assert answer.status_code == 303
        assert answer.headers["location"] == "/login?next=/live%3Fa%3D1"
        assert made.get("/live").status_code == 401
        assert made.get("/live").json()["detail"]


def test_the_right_token_logs_in_and_a_logout_ends_it() -> None:
    with client(TOKEN, base="http://cams.example") as made:
        answer = log_in(made, TOKEN)
        assert (answer.status_code, answer.headers["location"]) == (303, "/live")
        cookie = next(each for each in answer.headers.get_list("set-cookie") if each.startswith(COOKIE))
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        assert "Secure" not in cookie
        assert TOKEN not in cookie
        assert made.get("/live", headers=PAGE).status_code == 200
        stolen = made.cookies[COOKIE]
        assert made.post("/logout", headers={"origin": "http://cams.example"}).status_code == 303
        assert made.get("/live", headers={**PAGE, "cookie": f"{COOKIE}={stolen}"}).status_code == 303


def test_behind_tls_the_cookie_is_secure() -> None:
    with client(TOKEN, base="https://cams.example") as made:
        hidden = re.search(r'name="form" value="([^"]+)"', made.get("/login").text)
        assert hidden
        data = {"form": hidden[1], "token": TOKEN}
        answer = made.post("/login", data=data, headers={"origin": "https://cams.example"})
        assert all("Secure" in each for each in answer.headers.get_list("set-cookie") if each.startswith(COOKIE))


def test_wrong_tokens_are_refused_and_then_have_to_wait() -> None:
    with client(TOKEN, base="http://cams.example") as made:
        codes = [log_in(made, "wrong").status_code for _ in range(6)]
        assert codes == [401] * 5 + [429]
        assert log_in(made, TOKEN).status_code == 429
        assert COOKIE not in made.cookies


def test_a_login_that_another_page_sends_is_refused() -> None:
    """Login CSRF: without the form's own cookie and value, a foreign page could log a browser in."""
    with client(TOKEN, base="http://cams.example") as made:
        own = {"origin": "http://cams.example"}
        assert made.post("/login", data={"token": TOKEN}, headers=own).status_code == 403
        assert log_in(made, TOKEN, form="x.1.y").status_code == 403
        signed = made.access.signer.sign("form", "abc", 60)
        made.cookies.clear()
        assert made.post("/login", data={"token": TOKEN, "form": signed}, headers=own).status_code == 403
        foreign = {"origin": "http://evil.example"}
        assert made.post("/login", data={"token": TOKEN, "form": signed}, headers=foreign).status_code == 403


def test_the_form_escapes_what_it_repeats() -> None:
    with client(TOKEN, base="http://cams.example") as made:
        assert "<script>" not in made.get("/login", params={"next": '/"><script>'}).text


def test_a_page_for_too_many_browsers_is_refused_with_a_page() -> None:
    with client(full=True) as made:
        answer = made.get("/live", headers=PAGE)
        assert answer.status_code == 503
        assert "Too many browsers" in answer.text
        assert int(answer.headers["retry-after"]) > 0
        assert made.get("/live").status_code == 503, "a page also without the header Accept"
        assert made.get("/login").status_code != 503


def test_the_form_tells_nothing_about_the_token() -> None:
    with client(TOKEN, base="http://cams.example") as made:
        form = re.search(r'name="form" value="([^"]+)"', made.get("/login").text)
        assert form is not None
        assert Signer(TOKEN).verify("form", form[1]) is None


def test_a_token_in_an_address_gets_a_clear_answer_without_the_token() -> None:
    with client(TOKEN) as made:
        answer = made.get(f"/live?token={TOKEN}", headers=PAGE)
        assert answer.status_code == 400
        assert "Authorization: Bearer" in answer.text
        assert TOKEN not in answer.text


def test_a_long_request_head_is_refused() -> None:
    with client() as made:
        assert made.get("/plain", headers={"x": "a" * 20_000}).status_code == 200
        assert made.get("/plain", headers={"x": "a" * 40_000}).status_code == 431
        assert made.get("/plain?q=" + "a" * 40_000).status_code == 431


def test_a_body_that_is_too_long_is_not_read() -> None:
    with client(TOKEN) as made:
        bearer = {"authorization": f"Bearer {TOKEN}"}
        assert made.post("/api/take", content=bytes(1000), headers=bearer).text == "1000"
        with pytest.raises(Exception, match=r"^$|[Dd]isconnect"):
            made.post("/api/take", content=bytes(MAX_BODY_BYTES + 1), headers=bearer)


def test_the_policy_names_no_other_origin() -> None:
    for nonce in (None, "abc"):
        assert "http" not in middleware.policy_for(nonce)
        assert "*" not in middleware.policy_for(nonce)
