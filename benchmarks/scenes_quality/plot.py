"""A plot of figures: bars, with targets, ceilings and floors beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.scenes_quality.figures import Figure

_MET, _MISSED, _FREE = "#3b7a57", "#b5523b", "#4a6a8a"
_HEIGHT = 0.55


def draw_plot(path: Path, figures: Sequence[Figure], title: str) -> None:
    """Writes a plot of the figures in percent.

    Args:
      path: of the PNG file.
      figures: of all measures; those of other units are left out, and nothing is written if all
        are.
      title: above the plot.

    Raises:
      ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas
    from matplotlib.lines import Line2D

    shown = [figure for figure in figures if figure.unit == "%"]
    if not shown:
        return
    canvas = Canvas(figsize=(9, 1.4 + 0.52 * len(shown)), dpi=120, layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.subplots()
    for row, figure in enumerate(shown):
        low, high = row - _HEIGHT / 2, row + _HEIGHT / 2
        if figure.value is not None:
            colour = {True: _MET, False: _MISSED, None: _FREE}[figure.is_met]
            axes.barh(row, figure.value, _HEIGHT, color=colour)
            # Beside the axes, where no mark hides it.
            axes.annotate(
                f"{figure.value:.1f} %",
                (1.01, row),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=8,
            )
        if figure.target is not None:
            axes.plot([figure.target] * 2, [low - 0.1, high + 0.1], color="black", linewidth=2)
        if figure.ceiling is not None:
            axes.plot(figure.ceiling, row, marker="^", color="black", markersize=6, clip_on=False)
        if figure.through_autoencoder is not None:
            axes.plot(
                figure.through_autoencoder,
                row,
                marker="D",
                color="black",
                markersize=4,
                fillstyle="none",
                clip_on=False,
            )
        for floor in figure.floors.values():
            axes.plot(floor, row, marker="v", color="grey", markersize=6, clip_on=False)
    axes.set_yticks(range(len(shown)), [_label(figure) for figure in shown], fontsize=8)
    axes.set_xlim(0, 104)
    axes.invert_yaxis()
    axes.set_xlabel("% of the cases")
    axes.spines[["top", "right"]].set_visible(False)
    handles = [
        Line2D([], [], color="black", linewidth=2, label="target"),
        Line2D([], [], color="black", marker="^", linestyle="", label="right pictures"),
        Line2D(
            [],
            [],
            color="black",
            marker="D",
            fillstyle="none",
            markersize=4,
            linestyle="",
            label="right pictures through the autoencoder",
        ),
        Line2D([], [], color="grey", marker="v", linestyle="", label="wrong pictures"),
    ]
    canvas.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    axes.set_title(title or "without a model", fontsize=10)
    canvas.savefig(path)


def _label(figure: Figure) -> str:
    return figure.title + (" (less is better)" if figure.at_most else "")
