"""Checks of what a browser sends: every fault names the field, the value and what is expected."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from input_pipeline.image_files import PICTURE_FORMATS
from launch.demo.folders import Folders
from launch.demo.settings import Limits
from launch.setting_checks import SIZE_MULTIPLE, RequestError

_SHOWN = 60
_SEEDS = 2**32
# Short enough to be read and typed.
_RANDOM_SEEDS = 10**6
RANDOM = -1


class Fields:
    """Reads values, and gathers what is wrong with them.

    Args:
      limits: of requests.
      folders: in which uploaded files lie.
    """

    def __init__(self, limits: Limits, folders: Folders) -> None:
        self._limits, self._folders = limits, folders
        self._problems: list[str] = []

    def check(self) -> None:
        """Ends reading.

        Raises:
          RequestError: something was wrong; lists all of it.
        """
        if self._problems:
            raise RequestError(self._problems)

    def add(self, problem: str) -> None:
        """Takes note of a problem."""
        self._problems.append(problem)

    def number(self, name: str, value: Any, low: float, high: float) -> float:
        """Returns a finite number.

        Args:
          name: of the field on the page.
          value: as sent.
          low: smallest.
          high: largest.
        """
        if isinstance(value, bool) or not isinstance(value, int | float):
            return self._refuse(name, value, f"a number from {low:g} to {high:g}", low)
        # Nothing is made a float before: a whole number may be too large for one.
        if not low <= value <= high:
            return self._refuse(name, value, f"a number from {low:g} to {high:g}", low)
        return float(value)

    def whole(self, name: str, value: Any, low: int, high: int) -> int:
        """Returns a whole number; arguments as in `number`."""
        expected = f"a whole number from {low} to {high}"
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not low <= value <= high or value != int(value):
            return self._refuse(name, value, expected, low)
        return int(value)

    def size(self, name: str, value: Any) -> int:
        """Returns a height or width in pixels.

        Args:
          name: of the field.
          value: as sent.
        """
        low, high = SIZE_MULTIPLE, self._limits.max_size
        if isinstance(value, int | float) and low <= value <= high and value % SIZE_MULTIPLE == 0:
            return int(value)
        return self._refuse(name, value, f"a multiple of {low} from {low} to {high}", low)

    def seed(self, value: Any, count: int) -> int:
        """Returns the first of several seeds; a random one for -1.

        Args:
          value: as sent.
          count: of seeds that follow one another.
        """
        last = _SEEDS - count
        seed = self.whole("Seed (-1 is random)", value, RANDOM, last)
        return secrets.randbelow(_RANDOM_SEEDS) if seed == RANDOM else seed

    def text(self, name: str, value: Any) -> str:
        """Returns a text in one line, without control characters.

        Args:
          name: of the field.
          value: as sent; None is empty.
        """
        most = self._limits.max_letters
        if value is None:
            return ""
        if not isinstance(value, str):
            return self._refuse(name, value, "a text", "")
        if len(value) > most:
            return self._refuse(
                name, f"{len(value)} letters", f"at most {most}; the model reads 75 tokens", ""
            )
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return self._refuse(name, "half of a letter (a lone surrogate)", "whole letters", "")
        return "".join(letter if letter.isprintable() else " " for letter in value).strip()

    def choice(self, name: str, value: Any, known: Sequence[str]) -> str:
        """Returns one of several names.

        Args:
          name: of the field.
          value: as sent.
          known: names.
        """
        if isinstance(value, str) and value in known:
            return value
        return self._refuse(name, value, f"one of {', '.join(known)}", known[0])

    def picture(self, name: str, value: Any) -> Path | None:
        """Returns an uploaded picture, of which only the header has been read.

        Args:
          name: of the field.
          value: as sent: what Gradio says of an uploaded file, or None.
        """
        if value is None:
            return None
        path = value.get("path") if isinstance(value, dict) else None
        if not isinstance(path, str) or not self._folders.holds(path):
            return self._refuse(name, path, "a file uploaded on this page; upload it again", None)
        problem = picture_problem(Path(path), self._limits)
        if problem:
            self._problems.append(f"{name}: {problem}")
            return None
        return Path(path)

    def _refuse(self, name: str, value: Any, expected: str, instead: Any) -> Any:
        shown = value if isinstance(value, str) else repr(value)
        shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
        self._problems.append(f"{name}: got {shown}, expected {expected}")
        return instead


def picture_problem(path: Path, limits: Limits) -> str:
    """Returns why a file is not to be decoded; empty if it may be.

    Args:
      path: of the file.
      limits: of bytes and pixels.
    """
    try:
        size = path.stat().st_size
    except OSError:
        return "the file is no longer there; upload it again"
    if size > limits.max_upload_bytes:
        return (
            f"the file has {size / 1e6:.1f} MB, expected at most "
            f"{limits.max_upload_bytes / 1e6:.0f}; save it smaller"
        )
    try:
        with Image.open(path, formats=_formats()) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        width = height = 2**31
    # On damaged headers Pillow raises nearly every type that there is.
    except Exception:
        known = ", ".join(PICTURE_FORMATS)
        return f"the file is no picture that can be read; expected one of {known}"
    if width * height > limits.max_pixels:
        shown = f"{width} x {height}" if width < 2**31 else "far too many"
        return (
            f"the picture has {shown} pixels, expected at most "
            f"{limits.max_pixels / 1e6:.0f} million; make it smaller"
        )
    return ""


def _formats() -> list[str]:
    Image.init()
    return [name for name in PICTURE_FORMATS if name in Image.OPEN]
