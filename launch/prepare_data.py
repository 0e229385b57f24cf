"""Raw data sets -> verified shards for training.

python -m launch.prepare_data --config=configs/prepare.py:dataset=coco --config.root=data/coco \
    --config.output=shards/coco
"""

from __future__ import annotations

import sys

from ml_collections import config_flags

from launch.command import command, run

_CONFIG = config_flags.DEFINE_config_file("config", "configs/prepare.py", "What to prepare.")


def main() -> None:
    """Runs the command."""
    with command():
        # Imported here, so that --help and a wrong flag answer at once.
        from launch.preparing import prepare

        folder = prepare(_CONFIG.value)
        if folder is not None:
            print(f"{folder} is complete; look at it with launch.inspect_data", file=sys.stderr)


if __name__ == "__main__":
    run(main, settings="configs.prepare")
