"""Lay out every page: the header with its tabs, the notice of a service that is away, and the main part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from nicegui import ui

from streamclf.subscribers.web.context import PageContext

TABS: Final = (
    ("/live", "Live"),
    ("/events", "Events"),
    ("/teach", "Teach"),
    ("/health", "Health"),
    ("/settings", "Settings"),
)


@contextmanager
def page_frame(
    context: PageContext, path: str, *, scripts: tuple[str, ...] = (), styles: tuple[str, ...] = ()
) -> Iterator[None]:
    """Lay out the page whose tab has this path; elements that are made inside `with` are its main part.

    `scripts` (modules) and `styles` are files in `static/`. Every page has `page.js` and `page.css`. Colours come from
    the variables in `page.css`, which have a dark and a light set.
    """
    title = dict(TABS)[path]
    ui.page_title(f"{title} · streamclf")
    for name in ("page.css", *styles):
        ui.add_head_html(f'<link rel="stylesheet" href="/static/{name}">')
    ui.add_head_html('<script src="/static/theme.js"></script>')
    for name in ("page.js", *scripts):
        ui.add_body_html(f'<script type="module" src="/static/{name}"></script>')
    ui.html(_header(path, needs_login=context.access.needs_login), sanitize=False, tag="header").classes("bar")
    ui.html('<div id="notice" class="notice" role="alert" hidden></div>', sanitize=False)
    with ui.element("div").classes(f"main main-{title.lower()}").props('id="main" tabindex="-1"'):
        yield


def _header(path: str, *, needs_login: bool) -> str:
    """Return the header's HTML; no text of a service is in it."""
    tabs = "".join(
        f'<a class="tab" href="{tab}"{" aria-current=page" if tab == path else ""}>{text}</a>' for tab, text in TABS
    )
    log_out = '<form method="post" action="/logout"><button class="quiet-button">Log out</button></form>'
    return f"""
<a class="skip" href="#main">Skip to the content</a>
<a class="brand" href="/live" aria-label="streamclf"><span class="brand-mark"></span><span>streamclf</span></a>
<nav class="tabs" aria-label="Pages">{tabs}</nav>
<span id="service-state" class="service-state" role="status">connecting</span>
<button id="theme" class="icon-button" type="button" aria-label="Change between dark and light"
 title="Dark or light">◐</button>
{log_out if needs_login else ""}
"""
