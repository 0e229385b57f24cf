"""Both pages under one title."""

from __future__ import annotations

import gradio as gr

from launch.demo.compose_page import build_compose
from launch.demo.draw_page import build_draw
from launch.demo.models import Composing, Drawing
from launch.demo.run_job import Page, session_of

_TITLE = "Compose and Conquer · FG-DM"


def build_pages(page: Page, composing: Composing, drawing: Drawing) -> gr.Blocks:
    """Returns both pages.

    Args:
      page: what they share.
      composing: what the model of Compose can do.
      drawing: what that of Draw can do.
    """
    settings = page.settings
    with gr.Blocks(title=_TITLE, analytics_enabled=False, fill_width=True) as blocks:
        gr.Markdown(f"## {_TITLE}\nControllable Stable Diffusion in JAX · `{settings.checkpoint}`")
        with gr.Tabs():
            with gr.Tab("Compose", id="compose"):
                build_compose(page, composing)
            with gr.Tab("Draw", id="draw"):
                build_draw(page, drawing)

        def on_leave(request: gr.Request) -> None:
            page.jobs.cancel(session_of(request))

        blocks.unload(on_leave)
    return blocks
