"""One page with a tiny model for all tests, and a browser to look at it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.launch.demo.server_process import Server, start, stop, write_checkpoint

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("demo") / "model")


@pytest.fixture(scope="session")
def server(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("page")
    limits = ("--max_upload_mb=2", "--batch_size=2", "--max_waiting=3")
    running = start(checkpoint, folder, *limits)
    yield running
    stop(running)


@pytest.fixture
def _unharmed(server: Server) -> Iterator[None]:
    """A test fails if the page does not answer after it, or has written anything elsewhere."""
    yield
    assert server.is_alive()
    assert server.written_outside() == []


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium: install the package chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=list(_ARGUMENTS))
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    """Returns a fresh page; a test fails if it asked any other machine for anything."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    opened = context.new_page()
    opened.set_default_timeout(300_000)
    asked: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(server.address)
    opened.wait_for_selector("#compose")
    yield opened
    context.close()
    strangers = [url for url in asked if not url.startswith((server.address, "data:", "blob:"))]
    assert not strangers
