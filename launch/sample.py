"""Images from text, layered depth maps, exemplars and masks; see configs/sample.py."""

from __future__ import annotations

import sys

from ml_collections import config_flags

from launch.command import command, run

_CONFIG = config_flags.DEFINE_config_file("config", "configs/sample.py", "What to sample.")


def main() -> None:
    """Runs the command."""
    with command():
        # Imported here, so that --help and a wrong flag answer at once.
        from launch.sampling import sample_from_config

        folder = sample_from_config(_CONFIG.value)
        print(f"wrote {folder}/contact_sheet.png, record.json and the images", file=sys.stderr)


if __name__ == "__main__":
    run(main, settings="configs.sample")
