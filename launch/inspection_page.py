"""A page that shows a data set: one HTML file with everything in it, which opens offline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from input_pipeline.inspection import BINS, Statistics
from input_pipeline.palettes import LegendRow
from launch.html_parts import document, text, thumbnail

_THUMBNAIL = 192
_CLASSES_SHOWN = 30
_STYLE = """
.charts { display: flex; flex-wrap: wrap; gap: 1.5rem }
.record { background: #fff; border: 1px solid #ddd; padding: .8rem; margin: .8rem 0 }
.pictures { display: flex; flex-wrap: wrap; gap: .5rem }
.chip { display: inline-block; width: .9em; height: .9em; border: 1px solid #999;
  vertical-align: -.1em; margin: 0 .25em 0 .7em }
rect { fill: #4477aa }
"""


def page(
    title: str,
    facts: Mapping[str, Any],
    problems: Sequence[str] | None,
    numbers: Statistics,
    records: Iterable[str],
) -> str:
    """Returns the page.

    Args:
      title: of the page.
      facts: about the data set, name -> value.
      problems: what verification found; None if it did not run.
      numbers: over many records.
      records: from `record_block`.
    """
    parts = [
        f"<h1>{text(title)}</h1>",
        _verdict(problems),
        _table(facts),
        f"<h2>Over {numbers.records} records</h2>",
        '<div class="charts">',
        *_charts(numbers),
        "</div>",
        _table({name: f"{size / 1024:.1f} KiB" for name, size in numbers.bytes.items()}, "field"),
        "<h2>Records</h2>",
        *records,
    ]
    return document(title, "\n".join(parts), _STYLE)


def record_block(
    name: str,
    captions: Sequence[str],
    pictures: Mapping[str, np.ndarray],
    legend: Sequence[LegendRow],
) -> str:
    """Returns the part of the page about one record.

    Args:
      name: of the record.
      captions: its captions.
      pictures: by label, uint8 [h w 3].
      legend: classes in its segmentation.
    """
    cells = "".join(
        f'<figure><img src="{thumbnail(pixels, _THUMBNAIL)}" alt="{text(label)}"><figcaption>'
        f"{text(label)}</figcaption></figure>"
        for label, pixels in pictures.items()
    )
    texts = "".join(f"<li>{text(caption) or '<em>(empty)</em>'}</li>" for caption in captions)
    chips = "".join(
        f'<span class="chip" style="background: rgb{tuple(row.colour)}"></span>'
        f"{text(row.name)} {row.share:.0%}"
        for row in legend
    )
    return (
        f'<div class="record"><strong>{text(name)}</strong><ul>{texts}</ul>'
        f'<div class="pictures">{cells}</div><p>{chips}</p></div>'
    )


def problem_block(problem: str) -> str:
    """Returns the part of the page about a record that cannot be shown."""
    return f'<div class="record bad">{text(problem)}</div>'


def _verdict(problems: Sequence[str] | None) -> str:
    if problems is None:
        return "<p>Checksums were not compared; run with <code>--verify</code>.</p>"
    if not problems:
        return '<p class="good">Verified: every checksum, count and picture is as it should be.</p>'
    items = "".join(f"<li>{text(problem)}</li>" for problem in problems)
    return f'<div class="bad"><p>{len(problems)} problems:</p><ul>{items}</ul></div>'


def _charts(numbers: Statistics) -> list[str]:
    edges = [f"{index / BINS:.2g}" for index in range(BINS)]
    charts = [
        _bars("sizes (height x width)", numbers.sizes),
        _bars("captions of a record", numbers.captions),
        _bars("words of a caption", numbers.words),
    ]
    if any(numbers.mask_area):
        shares = dict(zip(edges, numbers.mask_area, strict=True))
        charts.append(_bars("foreground's share of the image (records)", shares))
    for field, values in numbers.depth.items():
        shares = dict(zip(edges, values, strict=True))
        charts.append(_bars(f"{field}: far (0) to near (1), share of pixels", shares))
    if numbers.classes:
        classes = dict(list(numbers.classes.items())[:_CLASSES_SHOWN])
        charts.append(_bars("classes, share of pixels", classes))
    return charts


def _bars(title: str, values: Mapping[Any, float]) -> str:
    """Returns a bar chart with the label of every bar as its tooltip."""
    width, height, highest = 330, 110, max(values.values(), default=0) or 1
    step = width / max(len(values), 1)
    bars, labels = [], []
    every = -(-len(values) // 6)
    for index, (label, value) in enumerate(values.items()):
        tall = height * value / highest
        shown = f"{value:.3g}"
        bars.append(
            f'<rect x="{index * step:.1f}" y="{height - tall:.1f}" width="{max(step - 1, 1):.1f}" '
            f'height="{tall:.1f}"><title>{text(label)}: {shown}</title></rect>'
        )
        if index % every == 0:
            labels.append(f'<text x="{index * step:.1f}" y="{height + 12}">{text(label)}</text>')
    return (
        f'<figure><svg width="{width}" height="{height + 16}" role="img" '
        f'aria-label="{text(title)}">{"".join(bars)}{"".join(labels)}</svg>'
        f"<figcaption>{text(title)}</figcaption></figure>"
    )


def _table(facts: Mapping[str, Any], heading: str = "") -> str:
    rows = "".join(
        f"<tr><th>{text(name)}</th><td>{text(value)}</td></tr>" for name, value in facts.items()
    )
    head = f"<tr><th>{text(heading)}</th><th>mean size</th></tr>" if heading else ""
    return f"<table>{head}{rows}</table>"
