"""The work of `launch.inspect_data`: a data set -> a page, a contact sheet and numbers."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from input_pipeline.codecs import decode_field
from input_pipeline.contact_sheet import Picture, contact_sheet
from input_pipeline.images import write_png
from input_pipeline.inspection import pictures, spread, statistics
from input_pipeline.palettes import Palette, legend, palette
from input_pipeline.pose import draw
from input_pipeline.scenes import Scenes
from input_pipeline.shards.atomic import write_file
from input_pipeline.shards.records import ShardedRecords
from input_pipeline.shards.verification import verify
from launch.inspection_page import page, problem_block, record_block

SCENES = "scenes"
_SHEET_FIELDS = (
    "image", "foreground", "background", "mask", "foreground_depth", "background_depth", "depth",
    "normal", "segmentation", "canny", "sketch", "pose",
)  # fmt: skip


def inspect(
    data: str, output: Path, *, num_records: int, num_counted: int, check: bool
) -> list[str]:
    """Writes index.html, contact_sheet.png and statistics.json; returns what verification found.

    Args:
      data: folder of shards, or "scenes".
      output: folder to write to.
      num_records: records that are shown.
      num_counted: records that numbers are taken over.
      check: whether to compare every checksum and decode every picture.
    """
    problems = _verify(data) if check and data != SCENES else None
    records: Any = Scenes() if data == SCENES else ShardedRecords(data)
    colours = palette(records.palette) if records.palette else None
    with tqdm(total=min(num_counted, len(records)), desc="counting", unit="record") as bar:
        numbers = statistics(records, colours, spread(len(records), num_counted), bar.update)
    blocks, rows, found = [], [], list(numbers.problems)
    for index in spread(len(records), num_records):
        try:
            record = records[index]
            seen = pictures(record, colours, draw)
            chips = _legend(record, colours)
        except ValueError as error:
            blocks.append(problem_block(str(error)))
            found.append(str(error))
            continue
        shown = {name: seen[name] for name in [*_SHEET_FIELDS, *seen] if name in seen}
        blocks.append(record_block(record["id"], record["captions"], shown, chips))
        first, *others = [name for name in _SHEET_FIELDS if name in shown]
        caption = next(iter(record["captions"]), "")
        labels = [f"{record['id']}: {caption}"[:80], *others]
        rows.append(
            [Picture(label, shown[n]) for label, n in zip(labels, [first, *others], strict=True)]
        )
    output.mkdir(parents=True, exist_ok=True)
    known = set(problems or ())
    found = list(dict.fromkeys(problem for problem in found if problem not in known))
    if found:
        problems = [*(problems or ()), *found]
    text = page(f"{records.name}: {data}", _facts(records), problems, numbers, blocks)
    write_file(output / "index.html", text.encode())
    if rows:
        write_png(output / "contact_sheet.png", contact_sheet(rows, title=records.name))
    content = json.dumps(dataclasses.asdict(numbers), indent=2, ensure_ascii=False)
    write_file(output / "statistics.json", content.encode())
    return problems or []


def _verify(data: str) -> list[str]:
    with tqdm(desc="verifying", unit="record") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return verify(data, progress, threads=os.cpu_count() or 1)


def _facts(records: Any) -> dict[str, Any]:
    facts = {"records": len(records), "fields": ", ".join(records.fields)}
    if not isinstance(records, ShardedRecords):
        return facts
    manifest = records.manifest
    size = sum(shard.bytes for shard in manifest.shards)
    return {
        **facts,
        "split": manifest.split,
        "palette": manifest.palette or "none",
        "shards": f"{len(manifest.shards)} of {size / 2**20:.1f} MiB together",
        "settings": json.dumps(manifest.settings, ensure_ascii=False),
        "sources": json.dumps(manifest.sources, ensure_ascii=False),
    }


def _legend(record: Any, colours: Palette | None) -> list[Any]:
    if colours is None or "segmentation" not in record:
        return []
    labels = decode_field(record["id"], "segmentation", record["segmentation"])
    return legend(labels, colours)


def report(problems: list[str], output: Path, checked: bool = False) -> None:
    """Says where the page is, and what is wrong with the data.

    Args:
      problems: of the data.
      output: folder of the page.
      checked: whether all of the data was verified.

    Raises:
      ValueError: there are problems.
    """
    print(f"wrote {output / 'index.html'}", file=sys.stderr)
    if checked and not problems:
        print("verified: every checksum, count and picture is as it should be", file=sys.stderr)
    if problems:
        raise ValueError("\n- ".join([f"{len(problems)} problems in the data:", *problems]))
