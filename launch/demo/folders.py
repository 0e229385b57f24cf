"""The folders of the page: one for each request, of which the newest stay."""

from __future__ import annotations

import re
import secrets
import shutil
import time
from pathlib import Path

_UPLOAD = re.compile(r"[0-9a-f]{64}")


class Folders:
    """All that the page writes lies here; Gradio keeps uploaded files in the same folder.

    Args:
      workdir: absolute.
      kept_requests: folders of requests that stay.
      kept_uploads: uploaded files that stay.
    """

    def __init__(self, workdir: Path, kept_requests: int, kept_uploads: int) -> None:
        self.workdir = workdir
        self._requests = workdir / "requests"
        self._kept_requests, self._kept_uploads = kept_requests, kept_uploads
        self._requests.mkdir(parents=True, exist_ok=True)
        self.prune()

    def new_request(self) -> Path:
        """Returns an empty folder; the oldest of too many goes."""
        self.prune()
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"
        folder = self._requests / name
        folder.mkdir()
        return folder

    def prune(self) -> None:
        """Removes the oldest requests and uploads beyond those that stay."""
        _remove_oldest([*self._requests.iterdir()], self._kept_requests - 1)
        uploads = [path for path in self.workdir.iterdir() if _UPLOAD.fullmatch(path.name)]
        _remove_oldest(uploads, self._kept_uploads - 1)

    def holds(self, path: str | Path) -> bool:
        """Returns whether a path, links followed, lies in the folder.

        Args:
          path: as somebody wrote it.
        """
        try:
            found = Path(path)
            return found.is_absolute() and found.resolve().is_relative_to(self.workdir)
        except (OSError, ValueError, RuntimeError):
            # Names that are too long, hold NUL, or lead in a circle.
            return False


def _remove_oldest(paths: list[Path], kept: int) -> None:
    def changed(path: Path) -> float:
        try:
            return path.lstat().st_mtime
        except OSError:
            return 0.0

    for path in sorted(paths, key=changed, reverse=True)[max(kept, 0) :]:
        shutil.rmtree(path, ignore_errors=True)
