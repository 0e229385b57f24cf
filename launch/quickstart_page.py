"""The page of the quickstart: pictures, times and commands of all parts, in one file."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

import jax

from launch.html_parts import document, png_address, text
from launch.quickstart_parts import Part

_STYLE = (
    "section { margin-bottom: 2.5rem } .time { color: #555; font-size: .85rem } "
    "pre { white-space: pre-wrap; overflow-wrap: anywhere }"
)
_CHART = (420, 140)
# Where the commands on the page write to: the parts' own folders hold the runs that it shows.
_BY_HAND = "by_hand"


@dataclasses.dataclass(frozen=True)
class Done:
    """A part that is done.

    Attributes:
      part: of the quickstart.
      folder: with its output.
      seconds: that it took.
    """

    part: Part
    folder: Path
    seconds: float


def write_page(folder: Path, done: Sequence[Done], count: int, seconds: float) -> Path:
    """Writes index.html; returns its path.

    Args:
      folder: to write to.
      done: the parts so far.
      count: of all parts.
      seconds: since the start.
    """
    title = "Compose and Conquer and FG-DM in JAX"
    device = jax.devices()[0].device_kind
    state = f"{len(done)} of {count} parts" if len(done) < count else f"all {count} parts"
    body = [
        f"<h1>{text(title)}</h1>",
        f"<p>Drawn and trained on this machine ({text(device)}, {os.cpu_count()} cores) with the "
        f"weights that ship with the project: {state} in {seconds:.0f} s. Each command can be run "
        "by itself, in the project's folder after <code>source .venv/bin/activate</code>, and "
        f"writes to <code>{text(str(folder / _BY_HAND))}</code>; <code>--help</code> lists its "
        "settings.</p>",
        *(_section(item) for item in done),
    ]
    path = folder / "index.html"
    temporary = folder / ".index.html"
    temporary.write_text(document(title, "\n".join(body), _STYLE), encoding="utf-8")
    os.replace(temporary, path)
    return path


def _section(done: Done) -> str:
    part = done.part
    if part.command == "train":
        shown = _losses(done.folder / "metrics.jsonl")
    else:
        sheet = (done.folder / "contact_sheet.png").read_bytes()
        shown = f'<img src="{png_address(sheet)}" alt="{text(part.title)}">'
    return (
        f"<section><h2>{text(part.title)}</h2><p>{text(part.text)}</p>{shown}"
        f"<pre>{text(part.words(done.folder.parent / _BY_HAND / part.name))}</pre>"
        f'<p class="time">{done.seconds:.1f} s, with loading and compiling</p></section>'
    )


def _losses(path: Path) -> str:
    """Returns a chart of a run's loss."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    losses = [(line["step"], line["train/loss"]) for line in lines if "train/loss" in line]
    if len(losses) < 2:
        return "<p>No loss was recorded.</p>"
    width, height = _CHART
    last, most = losses[-1][0], max(loss for _, loss in losses)
    points = " ".join(
        f"{width * step / last:.1f},{height * (1 - loss / most):.1f}" for step, loss in losses
    )
    return (
        f'<figure><svg width="{width}" height="{height + 14}" role="img" aria-label="loss">'
        f'<polyline points="{points}" fill="none" stroke="#4477aa" stroke-width="2"/>'
        f'<text x="0" y="{height + 12}">step 1</text>'
        f'<text x="{width - 40}" y="{height + 12}">step {last}</text></svg>'
        f"<figcaption>loss, from {losses[0][1]:.3f} to {losses[-1][1]:.3f}</figcaption></figure>"
    )
