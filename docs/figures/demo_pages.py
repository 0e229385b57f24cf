"""Takes docs/demo_compose.png and docs/demo_draw.png: both pages of the demo after a request.

python docs/figures/demo_pages.py [checkpoint]
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

_ADDRESS, _PORT = "http://127.0.0.1:7869", 7869
_DOCS = Path(__file__).parents[1]
_PROMPT = "a red ball in front of a blue box in the snow"
_WAIT_MS = 600_000
# Behind the six examples with a prompt; and a seed that is the same each time.
_LOOKS, _SEED = 6, "0"
_ARGUMENTS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")


def compose(page: Any) -> None:
    """Composes the first example of looks."""
    page.locator("#examples img").nth(_LOOKS).click()
    page.wait_for_selector("#exemplar-1 img")
    page.wait_for_function("document.querySelector('#image-guidance input').value == '2'")
    page.locator("#seed input").fill(_SEED)
    page.locator("#compose").click()
    page.wait_for_selector("#compose-status .done")
    page.wait_for_selector("#compose-images img")


def draw(page: Any) -> None:
    """Draws maps, picks the first of them and samples from it."""
    page.get_by_role("tab", name="Draw").click()
    page.wait_for_selector("#draw")
    page.locator("#draw-prompt textarea").fill(_PROMPT)
    page.locator("#draw-seed input").fill(_SEED)
    page.locator("#draw").click()
    page.wait_for_selector("#draw-status .done")
    page.locator("#maps .grid-container img").first.click()
    page.wait_for_selector("#picked-0 img")
    page.locator("#sample").click()
    page.wait_for_selector("#sample-status .done")


def wait_for(server: subprocess.Popen[bytes], log: Path) -> None:
    """Waits until the server answers, and says why if it does not."""
    while "open http" not in log.read_text():
        if server.poll() is not None:
            raise RuntimeError(f"the demo did not start:\n{log.read_text()}")
        time.sleep(0.5)


def main(checkpoint: str) -> None:
    """Takes both pictures."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise FileNotFoundError("there is no Chromium here: install the package chromium")
    with tempfile.TemporaryDirectory() as folder:
        words = ["launch.demo", f"--checkpoint={checkpoint}", f"--port={_PORT}"]
        log = Path(folder) / "log.txt"  # a pipe that nobody reads would stop the server
        with log.open("w") as stderr:
            server = subprocess.Popen(
                [sys.executable, "-m", *words, f"--workdir={folder}/work"], stderr=stderr
            )
        try:
            wait_for(server, log)
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=chromium, args=list(_ARGUMENTS)
                )
                page = browser.new_page(viewport={"width": 1280, "height": 900})
                page.set_default_timeout(_WAIT_MS)
                page.goto(_ADDRESS)
                page.wait_for_selector("#compose")
                for name, use in (("compose", compose), ("draw", draw)):
                    use(page)
                    page.wait_for_timeout(1000)
                    page.screenshot(path=_DOCS / f"demo_{name}.png", full_page=True)
                browser.close()
        finally:
            server.terminate()
            server.wait(30)


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["scenes"]))
