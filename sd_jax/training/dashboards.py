"""Writers for TensorBoard and for Weights & Biases."""

from __future__ import annotations

import html
import json
import secrets
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, SupportsFloat, cast

import numpy as np

from sd_jax.training.metrics_file import explained_errors


class TensorBoard:
    """Writes event files to `workdir`/tensorboard.

    They are written when they are told, by this thread. tensorboardX's own SummaryWriter leaves it
    to a thread which dies of a full disk, whereupon the run hangs at its bounded queue.

    Args:
      workdir: an existing folder.
      config: of the run, shown as a text.
      first_step: this run's; TensorBoard no longer shows what was written of it and later steps.
    """

    def __init__(self, workdir: Path, config: Mapping[str, Any], first_step: int = 0) -> None:
        try:
            from tensorboardX import summary
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto import event_pb2
        except ImportError as error:
            raise ImportError(
                "the writer 'tensorboard' needs tensorboardX: pip install tensorboardX, or leave "
                "it out of the writers"
            ) from error
        # Protobuf makes its classes at import, where no type checker sees them.
        self._summary, self._proto = summary, cast(Any, event_pb2)
        self._folder = workdir / "tensorboard"
        with explained_errors(self._folder):
            self._folder.mkdir(exist_ok=True)
            # Names hold the second of their start, so that two of one second would be one file.
            self._events = EventsWriter(str(self._folder / "events"), f".{secrets.token_hex(4)}")
        self._closed = False
        # What an earlier start wrote from here on, without a checkpoint to go on from, is hidden.
        start = self._proto.SessionLog(status=self._proto.SessionLog.START)
        self._write(first_step, session_log=start)
        self.text("config", json.dumps(config, indent=2, default=str))

    def scalars(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        """Writes numbers of a step."""
        for name, value in values.items():
            self._write(step, summary=self._summary.scalar(name, float(value)))

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes images of a step."""
        for name, image in images.items():
            self._write(step, summary=self._summary.image(name, image, dataformats="HWC"))

    def text(self, name: str, text: str) -> None:
        """Writes a text, in a fixed-width font."""
        # Texts are markdown, in which indented lines are taken as they are.
        self._write(
            0, summary=self._summary.text(name, textwrap.indent(text, "    ", lambda _: True))
        )

    def flush(self) -> None:
        """Brings everything to disk."""
        with explained_errors(self._folder):
            self._events.flush()

    def close(self) -> None:
        """Flushes and closes the file; once is enough."""
        if not self._closed:
            self._closed = True
            with explained_errors(self._folder):
                self._events.close()

    def _write(self, step: int, **content: Any) -> None:
        event = self._proto.Event(wall_time=time.time(), step=step, **content)
        with explained_errors(self._folder):
            self._events.write_event(event)


class WandB:
    """Writes to Weights & Biases, to the same run again when it goes on.

    Project, entity and mode come from its own variables, WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE.
    The axis is the metric "step": the service takes no earlier step of its own than its last one,
    so it would drop the steps that a run does again. These are there twice, the later ones last.

    Args:
      workdir: an existing folder; wandb_id.txt in it holds the run's id.
      config: of the run.
      first_step: not needed; as of the other writers.
    """

    def __init__(self, workdir: Path, config: Mapping[str, Any], first_step: int = 0) -> None:
        del first_step
        try:
            import wandb
        except ImportError as error:
            raise ImportError(
                "the writer 'wandb' needs wandb: install this project with its [wandb] extra "
                "(pip install wandb), or leave it out of the writers"
            ) from error
        self._wandb = wandb
        id_file = workdir / "wandb_id.txt"
        run_id = id_file.read_text(encoding="utf-8").strip() if id_file.is_file() else ""
        if not run_id:
            run_id = secrets.token_hex(4)
            id_file.write_text(run_id + "\n", encoding="utf-8")
        self._run = wandb.init(
            id=run_id,
            resume="allow",
            name=workdir.resolve().name,
            dir=str(workdir),
            config=dict(config),
            allow_val_change=True,
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        """Sends numbers of a step."""
        self._run.log({"step": step, **{name: float(value) for name, value in values.items()}})

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Sends images of a step."""
        shown = {name: self._wandb.Image(image) for name, image in images.items()}
        self._run.log({"step": step, **shown})

    def text(self, name: str, text: str) -> None:
        """Sends a text, in a fixed-width font."""
        self._run.log({name: self._wandb.Html(f"<pre>{html.escape(text)}</pre>")})

    def flush(self) -> None:
        """Does nothing: its own process writes as it is told."""

    def close(self) -> None:
        """Waits until everything is sent."""
        self._run.finish()
