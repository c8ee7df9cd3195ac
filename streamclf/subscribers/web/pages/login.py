"""Serve the login form, and begin and end logins. The form is plain HTML, so it costs the page no session."""

from __future__ import annotations

import secrets
from functools import partial
from html import escape
from typing import Final
from urllib.parse import parse_qs

from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from streamclf.net.signer import Signer
from streamclf.subscribers.web.access import COOKIE, Access, local_path
from streamclf.subscribers.web.sessions import SESSION_S

_FORM_COOKIE: Final = "streamclf_login"
_FORM_S: Final = 3600.0
_MAX_FORM_BYTES: Final = 16 << 10


def add_login_routes(app: FastAPI, access: Access) -> None:
    """Add the form, the login and the logout."""
    signer = Signer(None)  # anybody gets a signed form, which must not help to find the token
    show = partial(_form, access, signer)

    @app.get("/login", include_in_schema=False)
    async def show_form(request: Request) -> Response:
        return show(request, local_path(request.query_params.get("next", "/")))

    @app.post("/login", include_in_schema=False)
    async def log_in(request: Request) -> Response:
        try:
            body = await request.body()
        except ClientDisconnect:
            return Response(status_code=400)
        fields = {key: values[0] for key, values in parse_qs(body[:_MAX_FORM_BYTES].decode("utf-8", "replace")).items()}
        target = local_path(fields.get("next", "/"))
        cookie = request.cookies.get(_FORM_COOKIE, "")
        given = fields.get("form", "")
        if not given or given != cookie or signer.verify("form", given) is None:
            return show(request, target, "The form has expired after an hour. Enter the token again.", 403)
        client = request.client.host if request.client else ""
        refusal = access.try_token(fields.get("token", "").strip(), client)
        if refusal is not None:
            text = refusal.reason[0].upper() + refusal.reason[1:] + "."
            return show(request, target, text, refusal.status, dict(refusal.headers))
        answer = RedirectResponse(target, 303)
        answer.set_cookie(
            COOKIE,
            access.sessions.begin(),
            max_age=int(SESSION_S),
            path="/",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="lax",
        )
        answer.delete_cookie(_FORM_COOKIE, path="/login")
        return answer

    @app.post("/logout", include_in_schema=False)
    async def log_out(request: Request) -> Response:
        access.sessions.end(request.cookies.get(COOKIE, ""))
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE, path="/")
        return answer


def _form(
    access: Access,
    signer: Signer,
    request: Request,
    target: str,
    error: str = "",
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> Response:
    if not access.needs_login:
        return RedirectResponse(target, 303)
    form = signer.sign("form", secrets.token_urlsafe(18), _FORM_S)
    alert = f'<p class="alert" id="alert" role="alert">{escape(error)}</p>' if error else ""
    answer = HTMLResponse(
        _FORM.format(
            form=escape(form), target=escape(target), alert=alert, described="alert hint" if error else "hint"
        ),
        status,
        headers,
    )
    answer.headers["Cache-Control"] = "no-store"
    answer.set_cookie(
        _FORM_COOKIE,
        form,
        max_age=int(_FORM_S),
        path="/login",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return answer


_FORM: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="dark light">
<title>Log in · streamclf</title>
<link rel="stylesheet" href="/static/login.css">
</head>
<body>
<main class="card">
<h1><span class="brand-mark" aria-hidden="true"></span>streamclf</h1>
{alert}
<form method="post" action="/login">
<input type="hidden" name="form" value="{form}">
<input type="hidden" name="next" value="{target}">
<label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus
aria-describedby="{described}">
<button type="submit">Log in</button>
</form>
<p class="hint" id="hint">The token is in a file. outlets.web.token_file in the configuration names it, or the option
--token-file of streamclf web.</p>
</main>
</body>
</html>
"""
