"""The folder of a training run: what is in it, and whether a command may go on with it.

    WORKDIR/run.json         settings and data that the results follow from
    WORKDIR/model/           what the run started from, as a converted directory
    WORKDIR/checkpoints/     states of the training, by step
    WORKDIR/metrics.jsonl    a line for each log and evaluation
    WORKDIR/images/STEP/     pictures
    WORKDIR/tensorboard/ profile/

Nothing outside of it is needed to go on but the data.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORMAT = "cnc_fgdm_jax.run"
VERSION = 1


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Names of what a run's folder holds.

    Attributes:
      path: of the folder.
    """

    path: Path

    @property
    def model(self) -> Path:
        """What the run started from."""
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        """States by step."""
        return self.path / "checkpoints"

    @property
    def profile(self) -> Path:
        """Traces of jax.profiler."""
        return self.path / "profile"

    @property
    def record(self) -> Path:
        """The settings."""
        return self.path / "run.json"

    def settings(self) -> dict[str, Any] | None:
        """Returns what `write` wrote, or None in a new folder.

        Raises:
          ValueError: the file cannot be read, or is no record of a run.
        """
        if not self.record.exists():
            return None
        try:
            content = json.loads(self.record.read_text(encoding="utf-8"))
            if content["format"] != FORMAT or content["version"] != VERSION:
                raise ValueError(f"has format {content['format']} version {content['version']}")
            return content["settings"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.record}: is no record of a run of this version ({error}); choose another "
                "workdir"
            ) from error

    def write(self, settings: Mapping[str, Any]) -> None:
        """Writes the settings; the file is there whole or not at all.

        Args:
          settings: of the run, with the identities of its data and weights.
        """
        content = {"format": FORMAT, "version": VERSION, "settings": dict(settings)}
        temporary = self.record.with_name(f".{self.record.name}.{os.getpid()}")
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, self.record)
