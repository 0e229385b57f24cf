r"""Images from text, layered depth maps, exemplars and masks; or maps and images by FG-DM's graphs.

python -m launch.sample --config=configs/sample.py --config.checkpoint=cnc_v1.ckpt \
    --config.prompt="a fox in snow" --config.depth_maps=fox.png,forest.png
python -m launch.sample --config=configs/sample_fgdm.py --config.checkpoint=runs/chain \
    --config.prompt="a dog and a bicycle" --config.num_draws=10
"""

from __future__ import annotations

import sys

from ml_collections import config_flags

from launch.command import command, run

_CONFIG = config_flags.DEFINE_config_file("config", "configs/sample.py", "What to sample.")


def main() -> None:
    """Runs the command."""
    with command():
        # Imported here, so that --help and a wrong flag answer at once.
        if _CONFIG.value.system == "cnc":
            from launch.sampling import sample_from_config
        else:
            from launch.drawing import draw_from_config as sample_from_config
        folder = sample_from_config(_CONFIG.value)
        print(f"wrote {folder}/contact_sheet.png, record.json and the pictures", file=sys.stderr)


if __name__ == "__main__":
    run(main, settings="configs.sample")
