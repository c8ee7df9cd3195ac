"""Drive a headless Chromium against the page, and fail on errors in its console and on requests to other hosts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_LOCAL_SCHEMES = ("data", "blob", "about", "chrome-extension")


class Tab:
    """One browser tab on one page server; `page` is playwright's page."""

    def __init__(self, context: Any, base: str) -> None:
        self.base = base
        self.context = context
        self.faults: list[str] = []
        """Errors in the console and requests to other hosts, up to now."""
        self.page = context.new_page()
        self.page.set_default_timeout(60_000)
        self.page.on("console", self._note_console)
        self.page.on("pageerror", lambda error: self.faults.append(f"uncaught: {error}"))
        self.page.on("request", self._note_request)
        self.page.on("websocket", lambda socket: self._note_url(socket.url))

    def open(self, path: str = "/live") -> Any:
        """Open a path of the page, and return playwright's page."""
        self.page.goto(self.base + path)
        return self.page

    def check(self) -> None:
        """Fail if there was an error in the console, or a request to another host."""
        assert not self.faults, self.faults

    def find_violations(self) -> list[str]:
        """Run axe-core on the page; return one line for each violation."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page).response["violations"]
        return [f"{each['id']}: {each['help']}: {[node['html'][:200] for node in each['nodes']]}" for each in found]

    def _note_console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(f"{message.type}: {message.text} ({message.location.get('url', '')})")

    def _note_request(self, request: Any) -> None:
        self._note_url(request.url)

    def _note_url(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in _LOCAL_SCHEMES and parts.netloc != urlsplit(self.base).netloc:
            self.faults.append(f"request to another host: {url}")


@contextmanager
def start_chromium() -> Iterator[Any]:
    """Start a headless Chromium, and yield playwright's browser; skip the test on a machine without one."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine; Debian's package is called chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_tab(browser: Any, base: str, **options: Any) -> Iterator[Tab]:
    """Open a tab with cookies of its own, such as `viewport=` or `color_scheme="dark"`; check it at the end."""
    context = browser.new_context(**options)
    try:
        tab = Tab(context, base)
        yield tab
        tab.check()
    finally:
        context.close()


def save_picture(tab: Tab, path: Path) -> Path:
    """Save a picture of the page, for people who debug a test."""
    tab.page.screenshot(path=path)
    return path
