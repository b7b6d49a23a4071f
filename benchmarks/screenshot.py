"""Draw a picture of a page that mmser wrote, as docs/images/report.png is one of the demo's report.

    mmser demo && python -m benchmarks.screenshot runs/demo/report.html docs/images/report.png

It needs playwright, from the extra ``dev``, and a Chromium, which ``MMSER_CHROMIUM`` names or the path has.
"""

import argparse
import os
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright


def main() -> None:
    """Open the page without a network, and write what is seen of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--width", type=int, default=1000, help="Of the window, in pixels.")
    parser.add_argument("--height", type=int, default=1380, help="Of the window, in pixels.")
    parser.add_argument("--dark", action="store_true", help="As who prefers a dark page sees it.")
    asked = parser.parse_args()
    program = os.environ.get("MMSER_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        window = {"width": asked.width, "height": asked.height}
        scheme = "dark" if asked.dark else "light"
        page = browser.new_context(offline=True, viewport=window, color_scheme=scheme).new_page()
        page.goto(asked.page.absolute().as_uri())
        page.wait_for_load_state("networkidle")
        page.screenshot(path=asked.picture)
        browser.close()


if __name__ == "__main__":
    main()
