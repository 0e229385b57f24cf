"""Scenes that one process draws in a second, with all maps, as one line of JSON.

    python benchmarks/scenes.py

Seconds are the process's own, so that other work on the machine counts little. `encoded` adds the
PNG files of the stored record, which the stream does not need.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from typing import Any

from absl import app, flags

from input_pipeline.scenes import Scenes

_SECONDS = flags.DEFINE_float("seconds", 5.0, "CPU seconds of each measurement.", lower_bound=0.1)
_WARM_UP = 3


def rate(draw: Callable[[int], Any]) -> float:
    """Returns calls in a CPU second, one for each index in turn."""
    for index in range(_WARM_UP):
        draw(index)
    start = time.process_time()
    for index in itertools.count(_WARM_UP):
        draw(index)
        spent = time.process_time() - start
        if spent > _SECONDS.value:
            break
    return round((index + 1 - _WARM_UP) / spent, 1)


def main(arguments: list[str]) -> None:
    """Prints the figures."""
    del arguments
    figures = {}
    for side in (64, 512):
        scenes = Scenes(size=(side, side))
        figures[f"arrays_{side}_per_s"] = rate(scenes.arrays)
        figures[f"encoded_{side}_per_s"] = rate(scenes.__getitem__)
    print(json.dumps(figures))


if __name__ == "__main__":
    app.run(main)
