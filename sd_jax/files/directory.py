"""Folders that appear under their name only when they are complete."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def complete_directory(output: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Gives a temporary folder that takes the output's name when the block ends without error.

    Args:
      output: the folder to make.
      overwrite: replace what is there.

    Raises:
      ValueError: the output is there and `overwrite` is not set.
    """
    output = Path(output)
    if output.exists() and not overwrite:
        raise ValueError(f"{output}: is there already; choose another output or pass --overwrite")
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        yield folder
        folder.chmod(0o755)
        if output.exists():
            old = folder.with_name(folder.name + ".old")
            os.replace(output, old)
            try:
                os.replace(folder, output)
            except BaseException:
                os.replace(old, output)
                raise
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        else:
            os.replace(folder, output)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
