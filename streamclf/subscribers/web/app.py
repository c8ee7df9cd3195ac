"""Build the page's application: the pages of NiceGUI, the REST routes, the WebSocket of pictures, and the guard."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from fastapi import FastAPI, WebSocket
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from streamclf import __version__
from streamclf.subscribers.web.access import Refusal, request_of
from streamclf.subscribers.web.context import PageContext
from streamclf.subscribers.web.middleware import PageGuard, answer_refusal
from streamclf.subscribers.web.pages.login import add_login_routes
from streamclf.subscribers.web.rest import ROUTERS
from streamclf.subscribers.web.rest.events import make_shared_router

MAX_CLIENTS: Final = 64
"""Pages that NiceGUI keeps at the same time."""
_UNCONNECTED_S: Final = 5.0
"""When there are too many, pages are removed whose browser has not connected within this time."""
STATIC: Final = Path(__file__).with_name("static")


def build_app(context: PageContext) -> ASGIApp:
    """Return the ASGI application. One process can have one, because NiceGUI keeps its pages in globals."""
    from nicegui import app as pages
    from nicegui import ui

    from streamclf.subscribers.web.pages import PAGES

    app = FastAPI(
        title="streamclf",
        version=__version__,
        description="The streams, events and settings of one service.",
        docs_url=None,  # they would load scripts from another server
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    for make_router in ROUTERS:
        app.include_router(make_router(context), prefix="/api")
    app.include_router(make_shared_router(context))
    add_login_routes(app, context.access)

    @app.get("/", include_in_schema=False)
    async def go_to_live() -> Response:
        return RedirectResponse("/live", 307)

    @app.get("/api/{rest:path}", include_in_schema=False)
    async def answer_unknown(rest: str, request: Request) -> Response:
        from starlette.responses import JSONResponse

        return JSONResponse({"detail": "no such path; see /api/openapi.json"}, 404)

    @app.websocket("/ws")
    async def serve_pictures(socket: WebSocket) -> None:
        await context.wall.serve(socket)

    app.mount("/static", StaticFiles(directory=STATIC))
    for add_page in PAGES:
        add_page(context)
    # NiceGUI's own answer is a page that stays in memory, also for clients that have not logged in.
    pages.add_exception_handler(404, _answer_missing_page)
    ui.run_with(
        app,
        title="streamclf",
        favicon=STATIC / "favicon.svg",
        dark=None,
        language="en-US",
        tailwind=False,
        reconnect_timeout=10.0,
        message_history_length=200,
        show_welcome_message=False,
        cache_control_directives="public, max-age=86400",
    )
    return PageGuard(app, context.access, _is_full)


async def _answer_missing_page(request: Request, error: Exception) -> Response:
    refusal = Refusal(404, "no such page; the pages are /live, /events, /teach, /health and /settings")
    return answer_refusal(refusal, request_of(request.scope))


def _is_full() -> bool:
    from nicegui import Client

    if len(Client.instances) >= MAX_CLIENTS:
        with contextlib.suppress(Exception):
            Client.prune_instances(client_age_threshold=_UNCONNECTED_S)
    return len(Client.instances) >= MAX_CLIENTS
