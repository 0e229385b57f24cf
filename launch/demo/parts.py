"""Parts of both pages: sliders, uploads, and how everything looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from launch.demo.settings import Limits
from launch.setting_checks import SIZE_MULTIPLE

SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica", "sans-serif")
MONOSPACE_FONTS = ("ui-monospace", "Menlo", "Consolas", "monospace")

# Of Gradio's events: nothing is decoded before `launch.demo.fields` has looked at it, no second
# click is sent while the first is at work, and only our own lines tell of progress.
EVENT: dict[str, Any] = {
    "preprocess": False,
    "trigger_mode": "once",
    "show_progress": "hidden",
    "concurrency_limit": None,
    "api_visibility": "private",
}
"""Settings of every event that reads what a browser sends."""

CSS = """
.gradio-container {max-width: 1500px !important; margin: 0 auto !important}
.status {padding: 10px 14px; border-radius: 8px; border-left: 4px solid var(--neutral-400);
  background: var(--background-fill-secondary); line-height: 1.45; overflow-wrap: anywhere}
.status.busy {border-color: var(--primary-500)}
.status.done {border-color: #16a34a}
.status.failed {border-color: #dc2626}
.status ul {margin: 6px 0 0 18px; list-style: disc}
.status .bar {height: 6px; border-radius: 3px; background: var(--border-color-primary);
  margin-top: 8px; overflow: hidden}
.status .bar div {height: 100%; background: var(--primary-500); transition: width .2s}
.layer {padding: 8px 12px 12px !important; background: var(--background-fill-secondary) !important;
  border: 1px solid var(--border-color-primary)}
.layer .layer {border: 0; padding: 0 !important}
.layer .styler {background: transparent !important}
.layer-title {padding: 2px 4px 6px !important}
.picture img {width: 100% !important; height: 100% !important; object-fit: contain !important}
.pictures .grid-container {grid-template-columns: repeat(auto-fill, minmax(var(--cell), 1fr))
  !important; height: auto !important}
.pictures .caption-label {max-width: 100%; left: auto; padding: 1px 5px}
.large {--cell: 180px}
.small {--cell: 130px}
.tiny {--cell: 96px}
.step h3 {margin: 4px 0 !important}
.hint {font-size: .9em; color: var(--body-text-color-subdued)}
.recall div {max-height: 300px; overflow-y: auto}
.recall table {width: 100%; border-collapse: collapse; font-size: .88em; border: 0 !important}
.recall td, .recall th {text-align: left; padding: 3px 8px; border: 0 !important;
  border-bottom: 1px solid var(--border-color-primary) !important}
.recall pre {font-size: .72em; overflow-x: auto; margin-top: 8px}
"""


def theme() -> gr.themes.Base:
    """Returns the look of the page, with fonts of the system: none is fetched."""
    return gr.themes.Base(
        primary_hue="indigo", neutral_hue="slate", font=SYSTEM_FONTS, font_mono=MONOSPACE_FONTS
    ).set(button_primary_background_fill="*primary_600", block_label_text_size="*text_xs")


def upload(label: str, **settings: Any) -> gr.Image:
    """Returns a field for a picture; its file is shown by the browser and not decoded here.

    Args:
      label: of the field.
      **settings: others of `gr.Image`.
    """
    usual: dict[str, Any] = {
        "height": 150,
        "sources": ["upload", "clipboard"],
        "elem_classes": "picture",
    }
    return gr.Image(label=label, type="filepath", image_mode=None, **{**usual, **settings})


def size_slider(label: str, value: int, limits: Limits) -> gr.Slider:
    """Returns a slider for a height or width.

    Args:
      label: of the field.
      value: at first.
      limits: of requests.
    """
    return gr.Slider(SIZE_MULTIPLE, limits.max_size, value, step=SIZE_MULTIPLE, label=label)


def results(label: str, *, cell: str = "large", **settings: Any) -> gr.Gallery:
    """Returns a gallery of pictures that the page makes.

    Args:
      label: of the field.
      cell: `large`, `small` or `tiny`: how many stand in a row.
      **settings: others of `gr.Gallery`.
    """
    usual: dict[str, Any] = {
        "object_fit": "contain",
        "interactive": False,
        "elem_classes": ["pictures", cell],
    }
    return gr.Gallery(label=label, type="filepath", format="png", **{**usual, **settings})


def seed_field(element: str) -> gr.Number:
    """Returns the field of the seed.

    Args:
      element: its name on the page.
    """
    return gr.Number(
        -1, elem_id=element, label="Seed", info="-1: random; the one used is shown", precision=0
    )


def captions(paths: Sequence[Any]) -> list[tuple[str, str]]:
    """Returns gallery items of images that are named by their seeds.

    Args:
      paths: of the files.
    """
    return [(str(path), f"seed {int(path.stem)}") for path in paths if path.stem.isdigit()]
