"""A browser window that remembers what went wrong in it: errors, breaches of the policy, requests to other machines."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page, Request

OURS = frozenset({"127.0.0.1", "localhost", "::1"})
WIDE = {"width": 1280, "height": 800}
TABLET = {"width": 820, "height": 1180}
WITHIN_MS = 30_000  # of a page on a machine that has other things to do


class Window:
    """One page of a browser of its own. Dialogs are answered with OK, and kept in `dialogs`."""

    def __init__(self, browser: Browser, **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": WIDE, "locale": "en-GB"} | options)
        self.context.set_default_timeout(WITHIN_MS)
        self.troubles: list[str] = []
        self.dialogs: list[str] = []
        self._expected: list[re.Pattern[str]] = []
        self.context.on("console", self._on_console)
        self.context.on("weberror", lambda error: self.troubles.append(f"uncaught: {error.error}"))
        self.context.on("request", self._on_request)
        self.context.on("dialog", self._on_dialog)
        self.page: Page = self.context.new_page()

    @contextmanager
    def expecting(self, pattern: str) -> Iterator[None]:
        """Let messages pass that match, in this block: a browser calls every answer of 400 and above an error."""
        self._expected.append(re.compile(pattern))
        try:
            yield
        finally:
            self.page.evaluate("0")  # what the page said before is here now
            self._expected.pop()

    def sign_in(self, url: str, secret: str, name: str) -> None:
        """Take over a session."""
        self.context.add_cookies([{"name": name, "value": secret, "url": url, "httpOnly": True}])

    def verify(self) -> None:
        """Fail where anything went wrong since the last time."""
        troubles, self.troubles = self.troubles, []
        assert troubles == []

    def close(self) -> None:
        """Close the browser's window, and forget its cookies."""
        self.context.close()

    def _on_console(self, message: ConsoleMessage) -> None:
        # A breach of the Content Security Policy is an error of the console too.
        if message.type not in ("error", "warning"):
            return
        text = f"{message.type}: {message.text} ({message.location.get('url', '')})"
        if not any(pattern.search(text) for pattern in self._expected):
            self.troubles.append(text)

    def _on_request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("http", "https") or parts.hostname not in OURS:
            self.troubles.append(f"asked another machine: {request.url}")

    def _on_dialog(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        dialog.accept()
