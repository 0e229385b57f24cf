"""What the page Draw shows of sets of maps: captions, recalls, files."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from launch.demo.draw_run import Drawn, recall_rows
from launch.demo.jobs import Job
from launch.demo.models import Graph
from launch.demo.run_job import read_json
from launch.demo.status import status_of_end

NOT_PICKED = "Nothing is picked yet."
_NOT_SHARED = ("num_draws", "map_batch_size", "seed", "objects")


def nothing_picked() -> dict[str, Any]:
    """Returns the parts of the page that know of a picked set, as they are without one."""
    return {
        "picked_text": NOT_PICKED,
        "sample": gr.Button(interactive=False),
        "drawn": None,
        "seed": None,
    }


def drawn_view(job: Job, graph: Graph, found: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the page shows of drawn maps, by its parts.

    Args:
      job: that drew them.
      graph: likewise.
      found: the settings.
    """
    folder = job.result
    record = read_json(folder / "record.json")
    recall = {
        draw["seed"]: f"recall {100 * draw['recall']:.0f} %"
        for draw in record["draws"]
        if draw["recall"] is not None
    }
    pictures = tuple(
        (str(folder / item["file"]), item["seed"], item["variable"])
        for item in sorted(record["images"], key=lambda item: item["file"])
    )
    shared = {name: value for name, value in found.items() if name not in _NOT_SHARED}
    rows, table = recall_rows(record)
    first, last = found["seed"], found["seed"] + found["num_draws"] - 1
    objects = ", ".join(record["objects"])
    said = f"Seeds {first} to {last}." + (f" Looked for: {objects}." if objects else "")
    files = [folder / name for name in ("record.json", "contact_sheet.png", "palette.json")]
    return {
        "draw_status": status_of_end(job, said),
        "maps": gr.Gallery(
            [(file, caption_of(Path(file), recall)) for file, _, _ in pictures], selected_index=None
        ),
        "recall": _recall_html(rows, table),
        "picked_text": "Click one of the maps above.",
        "files": [str(path) for path in files if path.is_file()],
        "drawn": Drawn(graph, shared, pictures),
        "seed": None,
    }


def words_of(variable: str) -> str:
    """Returns a variable's name as the page writes it.

    Args:
      variable: of a graph.
    """
    return variable.replace("_", " ")


def caption_of(path: Path, recall: Mapping[int, str] | None = None) -> str:
    """Returns what stands under a map, told from the name of its file.

    Args:
      path: of the map.
      recall: in words, by seed.
    """
    seed, _, variable = path.stem.partition("_")
    known = (recall or {}).get(int(seed)) if variable == "segmentation" else None
    return f"seed {int(seed)}: {known or words_of(variable)}"


def _recall_html(rows: list[list[str]], table: str) -> str:
    if not rows:
        return ""
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    head = "<tr><th>seed</th><th>recall</th><th>missing</th></tr>"
    return f"<div><table>{head}{body}</table></div><pre>{html.escape(table)}</pre>"
