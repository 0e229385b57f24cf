"""A first look in minutes, without a GPU, a download or data: all parts of the project on one page.

    python -m launch.quickstart --output=outputs/quickstart

Composes and draws scenes with the weights that ship with the project, trains for a few steps, and
writes index.html with all pictures, times and commands. Run again, it does all of it again.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from absl import flags

from launch.command import command, run

_OUTPUT = flags.DEFINE_string("output", "outputs/quickstart", "Folder to write to.")
_ONLY = flags.DEFINE_list("only", [], "Names of the parts to do; all unless given.")


def main() -> None:
    """Runs the command."""
    with command():
        from configs.common import unknown_name
        from launch.quickstart_page import Done, write_page
        from launch.quickstart_parts import parts_of, write_inputs
        from launch.quickstart_run import run_part

        start, folder = time.perf_counter(), Path(_OUTPUT.value)
        parts = parts_of(write_inputs(folder / "inputs"))
        names = [part.name for part in parts]
        unknown = [name for name in _ONLY.value if name not in names]
        if unknown:
            raise ValueError("\n".join(unknown_name("part", name, names) for name in unknown))
        wanted = [part for part in parts if not _ONLY.value or part.name in _ONLY.value]
        done: list[Done] = []
        for index, part in enumerate(wanted):
            where = folder / part.name
            print(
                f"[{index + 1}/{len(wanted)}] {part.title}\n  {part.words(where)}", file=sys.stderr
            )
            began = time.perf_counter()
            run_part(part, where)
            done.append(Done(part, where, time.perf_counter() - began))
            # After each part: what is there can be looked at already.
            page = write_page(folder, done, len(wanted), time.perf_counter() - start)
            if not index:
                print(f"look at {page}, which grows", file=sys.stderr)
        seconds = time.perf_counter() - start
        print(f"done in {seconds / 60:.1f} minutes: open {page.resolve()}", file=sys.stderr)


if __name__ == "__main__":
    run(main)
