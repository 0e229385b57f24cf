"""Looks at a data set: pictures of records, histograms, and whether all of it is intact.

python -m launch.inspect_data --data=shards/coco --verify
python -m launch.inspect_data --data=scenes
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from launch.command import command, run

_DATA = flags.DEFINE_string(
    "data", None, "Folder of shards, or 'scenes', the procedural world.", required=True
)
_OUTPUT = flags.DEFINE_string("output", "outputs/inspection", "Folder for the page.")
_NUM_RECORDS = flags.DEFINE_integer("num_records", 24, "Records that are shown.", lower_bound=1)
_NUM_COUNTED = flags.DEFINE_integer(
    "num_counted", 1000, "Records that histograms are taken over.", lower_bound=1
)
_VERIFY = flags.DEFINE_bool("verify", False, "Compare every checksum and decode every picture.")


def main() -> None:
    """Runs the command."""
    with command():
        from launch.inspecting import inspect, report

        output = Path(_OUTPUT.value)
        problems = inspect(
            _DATA.value,
            output,
            num_records=_NUM_RECORDS.value,
            num_counted=_NUM_COUNTED.value,
            check=_VERIFY.value,
        )
        report(problems, output, _VERIFY.value and _DATA.value != "scenes")


if __name__ == "__main__":
    run(main)
