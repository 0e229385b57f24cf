"""The server: both pages, behind the gate, on this machine's own address."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from typing import Any

from launch.demo.folders import Folders
from launch.demo.gate import Gate
from launch.demo.jobs import Jobs
from launch.demo.models import find_composing, find_drawing
from launch.demo.settings import Settings
from launch.loaded import LoadedModels

_ADDRESS = "127.0.0.1"
# Requests that Gradio takes up at once, clicks on examples among them; ours are fewer.
_QUEUE = 100


def serve(settings: Settings, port: int, tell: Callable[[str], Any]) -> None:
    """Serves the page until the process ends.

    Args:
      settings: of the page.
      port: of this machine.
      tell: is called with the address once the page answers.

    Raises:
      ImportError: Gradio is not installed.
      ValueError: a checkpoint cannot be used.
      OSError: the port is taken.
    """
    _check_port(port)
    composing, drawing = find_composing(settings), find_drawing(settings)
    limits = settings.limits
    folders = Folders(settings.workdir, limits.kept_requests, limits.kept_uploads)
    _prepare_environment(settings)
    try:
        import gradio  # noqa: F401
        from starlette.middleware import Middleware
    except ImportError as error:
        raise ImportError('the demo needs Gradio: pip install -e ".[demo]"') from error
    from launch.demo.pages import build_pages
    from launch.demo.parts import CSS, theme
    from launch.demo.run_job import Page

    jobs = Jobs(limits.max_waiting, folders.new_request)
    page = Page(settings, folders, jobs, LoadedModels(keep=True))
    blocks = build_pages(page, composing, drawing)
    blocks.queue(max_size=_QUEUE, default_concurrency_limit=None, api_open=False)
    middleware = Middleware(Gate, folders=folders, max_upload_bytes=limits.max_upload_bytes)
    blocks.launch(
        server_name=_ADDRESS,
        server_port=port,
        app_kwargs={"middleware": [middleware], "docs_url": None, "redoc_url": None},
        share=False,
        quiet=True,
        inbrowser=False,
        inline=False,
        prevent_thread_lock=True,
        show_error=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        run_history=False,
        footer_links=[],
        max_file_size=limits.max_upload_bytes,
        theme=theme(),
        css=CSS,
    )
    tell(f"http://{_ADDRESS}:{port}")
    threading.Event().wait()


def _check_port(port: int) -> None:
    """Raises OSError if the port is taken: Gradio would tell it late, in words of its own."""
    with socket.socket() as probe:
        # Connections that have just ended do not keep the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_ADDRESS, port))
        except OSError as error:
            raise OSError(
                f"port {port} cannot be had ({error.strerror}); choose another one: --port=..."
            ) from error


def _prepare_environment(settings: Settings) -> None:
    """Sets what Gradio reads when it is imported: nothing is sent, and all files lie in workdir."""
    os.environ.update(
        GRADIO_ANALYTICS_ENABLED="False",
        HF_HUB_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        GRADIO_TEMP_DIR=str(settings.workdir),
        GRADIO_EXAMPLES_CACHE=str(settings.workdir / "examples"),
        GRADIO_SHARE="False",
        # Gradio imports matplotlib, which keeps a list of fonts.
        MPLCONFIGDIR=str(settings.workdir / "matplotlib"),
    )
    # Gradio asks its own server whether it is there, which no proxy may answer.
    for name in ("NO_PROXY", "no_proxy"):
        known = [os.environ[name]] if os.environ.get(name) else []
        os.environ[name] = ",".join([*known, _ADDRESS, "localhost"])
