"""A run's record in plain files: metrics.jsonl, images as PNG, texts as they are.

The record is that of one uninterrupted run. A run that goes on from a checkpoint first takes away
what the run before wrote of the steps that are now done again.
"""

from __future__ import annotations

import io
import json
import math
import os
import secrets
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, SupportsFloat

import numpy as np

RESERVED = frozenset({"step", "time", "nonfinite"})
"""Keys of a line that are no metrics."""


class JsonLines:
    """Appends a line of JSON to `workdir`/metrics.jsonl for each write, whole or not at all.

    A line holds "step", "time" (seconds since 1970) and the values. JSON knows no NaN and no
    infinities: these are null, and "nonfinite" lists their names. Images go to
    images/<step>/<name>.png, texts to <name>.txt.

    Args:
      workdir: an existing folder.
      first_step: this run's; lines and images of it and later steps are removed. 0 or more.
    """

    def __init__(self, workdir: Path, first_step: int = 0) -> None:
        self._workdir = workdir
        self._path = workdir / "metrics.jsonl"
        _cut_lines(self._path, first_step)
        _cut_images(workdir / "images", first_step)
        with explained_errors(self._path):
            # Without a buffer, so that a line that cannot be written fails now and only once.
            self._file = self._path.open("ab", buffering=0)

    def scalars(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        """Appends a line; when it returns, the line outlives this process."""
        numbers = {name: float(value) for name, value in values.items()}
        nonfinite = [name for name, number in numbers.items() if not math.isfinite(number)]
        line: dict[str, Any] = {"step": step, "time": round(time.time(), 3), **numbers}
        line |= dict.fromkeys(nonfinite)
        if nonfinite:
            line["nonfinite"] = nonfinite
        self._append(json.dumps(line, allow_nan=False).encode() + b"\n")

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes a PNG for each."""
        from PIL import Image

        for name, image in images.items():
            data = io.BytesIO()
            Image.fromarray(image).save(data, "PNG")
            _write(self._workdir / "images" / f"{step:08d}" / f"{name}.png", data.getvalue())

    def text(self, name: str, text: str) -> None:
        """Writes or replaces a file."""
        _write(self._workdir / f"{name}.txt", text.encode())

    def flush(self) -> None:
        """Makes what was written outlive a power cut."""
        with explained_errors(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flushes and closes the file; once is enough."""
        if not self._file.closed:
            try:
                self.flush()
            finally:
                self._file.close()

    def _append(self, line: bytes) -> None:
        begin = self._file.seek(0, os.SEEK_END)
        with explained_errors(self._path):
            try:
                written = 0
                while written < len(line):
                    written += self._file.write(line[written:])
            except OSError:
                # A full disk takes a part of a line, which no reader could use.
                self._file.truncate(begin)
                raise


def _cut_lines(path: Path, first_step: int) -> None:
    """Removes the lines of `first_step` and later, and what is no line of ours."""
    if not path.is_file():
        return
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    broken = 0
    with explained_errors(path):
        try:
            with path.open("rb") as lines, draft.open("xb") as kept:
                for line in lines:
                    step = _step_of(line)
                    broken += step is None
                    if step is not None and step < first_step:
                        kept.write(line)
                kept.flush()
                os.fsync(kept.fileno())
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
    if broken:
        warnings.warn(f"{path}: removed {broken} broken lines", stacklevel=2)


def _step_of(line: bytes) -> int | None:
    """Returns the step of a line; None where it is not whole."""
    try:
        step = json.loads(line)["step"] if line.endswith(b"\n") else None
    except (ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None


def _cut_images(folder: Path, first_step: int) -> None:
    for entry in folder.glob("????????*"):
        if entry.name.isdecimal() and int(entry.name) >= first_step:
            shutil.rmtree(entry)


def _write(path: Path, data: bytes) -> None:
    with explained_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            draft.write_bytes(data)
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise


@contextmanager
def explained_errors(path: Path) -> Iterator[None]:
    """Adds the file and what to do to an error of the operating system."""
    try:
        yield
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write the run's record ({error.strerror}); free space or mend the folder's "
            "permissions, and start the run again, which goes on from its last checkpoint",
            str(path),
        ) from error
