"""What tells two models apart, so that results of one are not taken for the other's."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

_BLOCK = 2**18
_BLOCKS = 64
_NOTES = (".md", ".png", ".jpg", ".jpeg", ".log")


@functools.cache
def identity(path: str | Path) -> str:
    """Returns a digest of the files at `path`, or the text itself if there is nothing there.

    Looks at every file's size and at blocks spread over all of it, which takes milliseconds where
    hashing all would take minutes. Hidden files and notes do not count, nor names of folders above,
    so that a copied model is the same.

    Args:
      path: file, folder, or id of a model on the hub.
    """
    root = Path(path)
    if not str(path) or not root.exists():
        return str(path)
    files = [root]
    if root.is_dir():
        files = sorted(item for item in root.rglob("*") if _counts(item, root))
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        name = file.relative_to(root).as_posix() if root.is_dir() else ""
        digest.update(f"{name} {size}\n".encode())
        step = max(_BLOCK, -(-size // _BLOCKS))
        with file.open("rb") as opened:
            for start in sorted({*range(0, size, step), max(0, size - _BLOCK)}):
                opened.seek(start)
                digest.update(opened.read(_BLOCK))
    return digest.hexdigest()[:16]


def _counts(path: Path, root: Path) -> bool:
    inner = path.relative_to(root)
    hidden = any(part.startswith(".") for part in inner.parts)
    return path.is_file() and not hidden and not path.name.lower().endswith(_NOTES)
