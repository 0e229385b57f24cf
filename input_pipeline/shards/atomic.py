"""Files that are there whole or not at all, whenever the process is killed.

A file is written under a temporary name in its own folder and renamed when all of it is on disk.
What a killed process leaves behind is ignored by everyone, and removed by the next that writes the
same file. The lock that a living writer holds on its temporary file tells the two apart.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yields the temporary path to write to; at the end it becomes the file, unless one raises.

    Args:
      path: of the file, in a folder that exists. If it is there already, it stays as it is until
        it is replaced.
    """
    _remove_leftovers(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
    try:
        _try_lock(descriptor)
        yield temporary
        os.fsync(descriptor)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def write_file(path: Path, data: bytes) -> None:
    """Writes or replaces a small file.

    Args:
      path: of the file, in a folder that exists.
      data: all of it.
    """
    with new_file(path) as temporary:
        temporary.write_bytes(data)


def is_temporary(name: str) -> bool:
    """Returns whether a file name is one that `new_file` writes to.

    Args:
      name: without folder.
    """
    return name.startswith(".") and name.endswith(".tmp")


def _remove_leftovers(path: Path) -> None:
    for leftover in path.parent.glob(f".{_escaped(path.name)}.????????.tmp"):
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(leftover, os.O_RDWR)
            try:
                if _try_lock(descriptor):
                    leftover.unlink()
            finally:
                os.close(descriptor)


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _try_lock(descriptor: int) -> bool:
    """Returns whether the file is now locked by this process; it is not if another lives.

    The lock ends with the process. A file system without locks costs no more than leftovers.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    """Makes a rename last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
