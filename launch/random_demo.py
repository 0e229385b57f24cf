"""The main job on a machine without weights: photographs composed by a tiny random model.

    python -m launch.random_demo --output=outputs/demo

It makes a checkpoint of random weights and runs `launch.sample` on scikit-image's photographs. The
pictures show that everything runs, and nothing more: random weights paint noise.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from absl import flags

from launch.command import command, run

_OUTPUT = flags.DEFINE_string("output", "outputs/demo", "Folder to write to.")
_SIZE = flags.DEFINE_integer("size", 256, "Height and width of the images.", lower_bound=64)
_STEPS = flags.DEFINE_integer("num_steps", 10, "Denoising steps.", lower_bound=1)


def main() -> None:
    """Runs the command."""
    with command():
        from configs.sample import get_config
        from launch.demo_files import write_demo_files
        from launch.sampling import sample_from_config

        folder = Path(_OUTPUT.value)
        settings = {
            **write_demo_files(folder / "inputs"),
            "height": _SIZE.value,
            "width": _SIZE.value,
            "num_steps": _STEPS.value,
            "num_images": 2,
            "batch_size": 2,
            "output": str(folder),
            "overwrite": True,
        }
        words = [sys.executable, "-m", "launch.sample", "--config=configs/sample.py"]
        words += [f"--config.{name}={value}" for name, value in settings.items()]
        print("running:\n  " + shlex.join(words), file=sys.stderr)
        config = get_config()
        config.update(settings)
        print(f"look at {sample_from_config(config)}/contact_sheet.png", file=sys.stderr)


if __name__ == "__main__":
    run(main)
