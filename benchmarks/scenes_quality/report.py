"""What a measurement leaves: quality.json, a plot, and contact sheets to check the judge by."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.scenes_quality.measures import Taken
from benchmarks.scenes_quality.plot import draw_plot
from benchmarks.scenes_quality.settings import Settings
from benchmarks.scenes_quality.studio import Studio
from input_pipeline.contact_sheet import contact_sheet
from input_pipeline.images import write_png
from launch.sample_record import version_of
from sd_jax.embedded import embedded_folders, is_embedded

_CELL = 144


def write_report(
    folder: Path,
    taken: Taken,
    checkpoints: Sequence[str],
    studio: Studio | None,
    settings: Settings,
) -> None:
    """Writes all files of a measurement; quality.json last.

    Args:
      folder: made if it is not there.
      taken: what was found.
      checkpoints: that were measured.
      studio: with the model, if there is one.
      settings: of the measurement.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "quality.json").unlink(missing_ok=True)
    for result in taken.results.values():
        for name, rows in result.rows.items():
            if not rows:
                continue
            title = f"{name}: {', '.join(checkpoints) or 'without a model'}"
            write_png(folder / f"{name}.png", contact_sheet(rows, cell=_CELL, title=title))
    try:
        draw_plot(folder / "quality.png", taken.figures, ", ".join(checkpoints))
    except ModuleNotFoundError as error:
        print(f"no plot: {error}; pip install matplotlib", file=sys.stderr)
    content = {
        "figures": {figure.name: figure.to_json() for figure in taken.figures},
        "left_out": taken.left_out,
        "checkpoints": {name: identity(name) for name in checkpoints},
        "settings": dataclasses.asdict(settings) | _drawing(studio),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "versions": {name: version_of(name) for name in ("cnc-fgdm-jax", "jax", "flax", "numpy")},
        "seconds": taken.seconds,
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    temporary = folder / ".quality.json"
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, folder / "quality.json")


def identity(checkpoint: str) -> dict[str, Any]:
    """Returns size and hash of what a checkpoint consists of.

    Args:
      checkpoint: file, folder, or name of weights that ship with the project.
    """
    named = embedded_folders(checkpoint) if is_embedded(checkpoint) else (Path(checkpoint),)
    digest, size = hashlib.sha256(), 0
    for root in named:
        for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
            if path.is_file():
                digest.update(path.relative_to(root).as_posix().encode())
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
                size += path.stat().st_size
    return {"bytes": size, "sha256": digest.hexdigest()}


def machine() -> str:
    """Returns what computed, in words."""
    devices = jax.devices()
    name = f"{len(devices)} x {devices[0].device_kind}"
    return f"{name}, {os.cpu_count()} cores, {platform.machine()} {platform.system()}"


def _drawing(studio: Studio | None) -> dict[str, Any]:
    if studio is None:
        return {}
    return {
        "sampler": "dpmpp_2m",
        "spacing": "trailing",
        "num_steps": studio.num_steps,
        "guidance_scale": studio.guidance_scale,
        "seed": studio.seed,
        "batch_size": studio.batch_size,
    }
