"""Pages opened from their files in headless Chromium, for tests marked ``browser``."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser for all tests of a module: the one that ``MMSER_CHROMIUM`` names, or else one on the path.

    Not for the whole session: Playwright's event loop would be in the way of other tests' own.
    """
    program = os.environ.get("MMSER_CHROMIUM") or next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if program is None:
        pytest.skip(f"no Chromium: none of {', '.join(_PROGRAMS)} on the path, and MMSER_CHROMIUM names none")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield running
        running.close()


@contextmanager
def opened(browser: Any, path: Path, **context: Any) -> Iterator[Any]:
    """The page of a file, without a network; it is closed when the block ends.

    Raises:
        AssertionError: at the end of the block, where the page wrote a warning or an error to its console, threw, or
            asked anything of a network.

    Args:
        browser: the fixture.
        path: the HTML file.
        **context: of the browser's context: ``color_scheme="dark"``, ``viewport={"width": 390, "height": 844}``, ...
    """
    complaints: list[str] = []
    own = browser.new_context(offline=True, **context)
    page = own.new_page()
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("warning", "error") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda asked: complaints.append(asked.url) if asked.url.startswith("http") else None)
    try:
        page.goto(path.absolute().as_uri())
        yield page
    finally:
        own.close()
    assert not complaints, f"{path.name} complains: {complaints}"
