"""Does a part of the quickstart: what its command would do, in this process."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import Any

from launch.quickstart_parts import Part


def run_part(part: Part, folder: Path) -> None:
    """Does a part.

    Args:
      part: to do.
      folder: for its output.
    """
    config = config_of(part)
    if part.command == "train":
        from launch.training import train

        # A run goes on where it stopped; here it shall be seen from its first step.
        shutil.rmtree(folder, ignore_errors=True)
        train(config, str(folder))
        return
    config.output, config.overwrite = str(folder), True
    if config.system == "cnc":
        from launch.sampling import sample_from_config as sample
    else:
        from launch.drawing import draw_from_config as sample
    sample(config)


def config_of(part: Part) -> Any:
    """Returns a part's config.

    Args:
      part: of the quickstart.
    """
    file, _, argument = part.config.partition(":")
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    config = module.get_config(argument or None)
    config.update(dict(part.settings))
    return config
