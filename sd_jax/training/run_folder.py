"""The folder of a training run: what is in it, and whether a command may go on with it.

    WORKDIR/.lock, .token    held by the run that writes here, and read by its processes
    WORKDIR/run.json         settings and data that the results follow from
    WORKDIR/model/           what the run started from, as a converted directory
    WORKDIR/checkpoints/     states of the training, by step
    WORKDIR/metrics.jsonl    a line for each log and evaluation
    WORKDIR/images/STEP/     pictures
    WORKDIR/tensorboard/ profile/

Nothing outside of it is needed to go on but the data.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from sd_jax.training.together import failing_together, from_first, sync

if TYPE_CHECKING:
    from filelock import FileLock

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

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other runs out of the folder, which is made if it is not there.

        All processes of a run call this together; the system lets go of it when the run dies.

        Raises:
          OSError: another run is writing to it, or it cannot be made.
        """
        # Gloo waits half a minute for a process to join, but for any time for one that has.
        sync("all settings are good")
        from filelock import FileLock

        lock = FileLock(self.path / ".lock", timeout=0)
        failure = OSError(f"process 0 cannot write to {self.path}, and tells why")
        token = from_first(secrets.randbits(31))
        with failing_together(failure):
            if jax.process_index() == 0:
                self._acquire(lock)
                self._token.write_text(str(token))
        try:
            with failing_together(OSError(f"another process does not see {self.path}")):
                self._check_shared(token)
            yield
        finally:
            lock.release()

    @property
    def _token(self) -> Path:
        return self.path / ".token"

    def _check_shared(self, token: int) -> None:
        """Checks that this process sees what process 0 wrote, if after a while."""
        for wait_s in (0, 1, 5, 25):
            time.sleep(wait_s)
            with contextlib.suppress(OSError):
                if self._token.read_text() == str(token):
                    return
        raise OSError(
            f"process {jax.process_index()} does not see in {self.path} what process 0 wrote; the "
            "workdir must be one folder that all processes share"
        )

    def _acquire(self, lock: FileLock) -> None:
        from filelock import Timeout

        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise OSError(
                f"{self.path}: another run is writing to it; wait for its end or choose another "
                "workdir"
            ) from error
        except NotImplementedError:
            warnings.warn(
                f"{self.path} is on a file system without locks: make sure that no other run "
                "writes to it",
                stacklevel=2,
            )
        except OSError as error:
            raise OSError(
                f"{self.path} cannot be written to ({error}); choose another workdir"
            ) from error

    def write(self, settings: Mapping[str, Any]) -> None:
        """Writes the settings; the file is there whole or not at all.

        Args:
          settings: of the run, with the identity of its data.
        """
        content = {"format": FORMAT, "version": VERSION, "settings": dict(settings)}
        temporary = self.record.with_name(f".{self.record.name}.{os.getpid()}")
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, self.record)
