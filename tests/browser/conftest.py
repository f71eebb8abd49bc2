"""A real Chromium without a screen, and a watch on what its pages do."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = Path(os.environ.get("EGPTLIB_CHROMIUM", "/usr/bin/chromium"))


@pytest.fixture(scope="session")
def chromium() -> "Iterator[Browser]":
    """Debian's Chromium. Skips where it is missing; `.ci/run` installs it."""
    if not CHROMIUM.is_file():
        pytest.skip(f"{CHROMIUM} not found: apt-get install chromium, or set EGPTLIB_CHROMIUM")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


class Watch:
    """Collects the errors of a page and its requests to other places than `allowed`."""

    def __init__(self, page: "Page", *allowed: str) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))

        def note(request: Any) -> None:
            if not request.url.startswith((*allowed, "data:", "blob:")):
                self.requests.append(request.url)

        page.on("request", note)


def keep_screenshot(page: "Page", name: str, **options: Any) -> None:
    """Save a picture of the page to the folder EGPTLIB_SCREENSHOTS, where a person can look at it; unset: nowhere."""
    if folder := os.environ.get("EGPTLIB_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", **options)
