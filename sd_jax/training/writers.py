"""Where a run's numbers, images and texts go: a file, TensorBoard, Weights & Biases, or all."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, SupportsFloat, runtime_checkable

import numpy as np

from sd_jax.training.dashboards import TensorBoard, WandB
from sd_jax.training.metrics_file import RESERVED, JsonLines

_MAKERS: dict[str, Callable[[Path, Mapping[str, Any], int], Writer]] = {
    "json": lambda workdir, config, first_step: JsonLines(workdir, first_step),
    "tensorboard": TensorBoard,
    "wandb": WandB,
}
# Names become file names and tags.
_NAME = re.compile(r"\w[\w.+-]*(/\w[\w.+-]*)*", re.ASCII)


@runtime_checkable
class Writer(Protocol):
    """Takes what a run has to tell, and has it on disk or on its way after `flush`."""

    def scalars(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        """Writes numbers of a step; NaN and infinities too."""

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes uint8 images [height, width, 3] of a step."""

    def text(self, name: str, text: str) -> None:
        """Writes or replaces a text that belongs to the whole run."""

    def flush(self) -> None:
        """Brings everything to disk."""

    def close(self) -> None:
        """Flushes and ends."""


class Writers:
    """Hands everything to several writers; with none it does nothing and costs nothing.

    Args:
      writers: in the order in which they are called.
    """

    def __init__(self, writers: Sequence[Writer] = ()) -> None:
        self._writers = tuple(writers)

    def scalars(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        """Writes numbers of a step.

        Args:
          step: 0 or more.
          values: by name, such as "train/loss"; device arrays are waited for.
        """
        if not self._writers:
            return
        _raise([*_name_problems(values), *_reserved_problems(values)])
        numbers = {name: float(value) for name, value in values.items()}
        for writer in self._writers:
            writer.scalars(step, numbers)

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes images of a step.

        Args:
          step: 0 or more.
          images: uint8 [height, width, 3] by name, such as "sample/0".
        """
        if not self._writers:
            return
        _raise([*_name_problems(images), *_image_problems(images)])
        for writer in self._writers:
            writer.images(step, images)

    def text(self, name: str, text: str) -> None:
        """Writes or replaces a text that belongs to the whole run.

        Args:
          name: such as "parameters".
          text: of any length; shown in a fixed-width font.
        """
        _raise(_name_problems([name]))
        for writer in self._writers:
            writer.text(name, text)

    def flush(self) -> None:
        """Brings everything to disk, as before a checkpoint is saved."""
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        """Closes all, also when one of them fails; the last error is raised."""
        with contextlib.ExitStack() as stack:
            for writer in reversed(self._writers):
                stack.callback(writer.close)
        self._writers = ()

    def __enter__(self) -> Writers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def make_writers(
    names: Sequence[str],
    workdir: Path,
    *,
    config: Mapping[str, Any],
    resume_step: int,
    is_main: bool,
) -> Writers:
    """Returns the named writers, which go on where a run with the same folder was stopped.

    Args:
      names: of "json", "tensorboard" and "wandb".
      workdir: of the run; made if it is not there.
      config: of the run, for the dashboards to show.
      resume_step: the first step that this run writes, 0 for a fresh one. What an earlier run wrote
        of this step and later ones goes, as those steps are now done again.
      is_main: whether this is the process that writes; the others get none.

    Raises:
      ValueError: names every writer that there is not.
      ImportError: a package is not installed.
    """
    problems = [f"there is no writer {name!r}" for name in names if name not in _MAKERS]
    problems += [f"{name!r} is named twice" for name in set(names) if names.count(name) > 1]
    _raise(problems, f"choose of {', '.join(_MAKERS)}")
    if not is_main:
        return Writers()
    workdir.mkdir(parents=True, exist_ok=True)
    made: list[Writer] = []
    try:
        for name in names:
            made.append(_MAKERS[name](workdir, config, resume_step))
    except BaseException:
        Writers(made).close()
        raise
    return Writers(made)


def _name_problems(names: Sequence[str] | Mapping[str, Any]) -> list[str]:
    return [
        f"name {name!r}: expected letters, digits and any of _.+- in parts joined by /"
        for name in names
        if not _NAME.fullmatch(name)
    ]


def _reserved_problems(values: Mapping[str, Any]) -> list[str]:
    reserved = sorted(RESERVED.intersection(values))
    return [f"name {name!r} has a meaning of its own; take another" for name in reserved]


def _image_problems(images: Mapping[str, np.ndarray]) -> list[str]:
    return [
        f"image {name!r} is {image.dtype} {image.shape}, expected uint8 (height, width, 3)"
        for name, image in images.items()
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size
    ]


def _raise(problems: Sequence[str], remedy: str = "") -> None:
    if problems:
        raise ValueError("; ".join([*problems, remedy] if remedy else problems))
