"""One computation at a time, in a thread of its own; others wait in line, or are refused."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from launch.progress import listening

# A page tells about twice a second that it still waits; a closed one does not.
_ABANDONED_S = 30.0


class Busy(Exception):
    """A request that is refused; the text says why, and what to do."""


class Stopped(Exception):
    """Ends a computation that was cancelled, or that nobody waits for any longer."""


@dataclasses.dataclass(eq=False)
class Job:
    """A computation, and how far it is.

    Attributes:
      session: of the browser that asked for it.
      work: what is to be done, in a folder of its own.
      folder: that one, once it runs.
      state: `waiting`, `running`, `done`, `failed` or `cancelled`.
      progress: (what is being done, steps done, steps), or None before the first step.
      result: of `work`.
      error: what is told of a failure.
      notes: warnings on the way.
      asked_to_stop: whether it is to end at the next step.
      seen: when somebody last waited for it.
      started: when it began.
      seconds: that it took.
    """

    session: str
    work: Callable[[Path], Any]
    folder: Path | None = None
    state: str = "waiting"
    progress: tuple[str, int, int] | None = None
    result: Any = None
    error: str = ""
    notes: tuple[str, ...] = ()
    asked_to_stop: bool = False
    seen: float = dataclasses.field(default_factory=time.monotonic)
    started: float = dataclasses.field(default_factory=time.monotonic)
    seconds: float = 0.0

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ("done", "failed", "cancelled")

    def touch(self) -> None:
        """Says that somebody still waits."""
        self.seen = time.monotonic()

    def listen(self, label: str, done: int, total: int) -> None:
        """Takes note of progress.

        Args:
          label: what is being done.
          done: steps.
          total: steps.

        Raises:
          Stopped: it is to end here.
        """
        self.progress = (label, done, total)
        if self.asked_to_stop or time.monotonic() - self.seen > _ABANDONED_S:
            raise Stopped


class Jobs:
    """The line of requests, and the thread that works them off.

    Args:
      max_waiting: further ones are refused.
      new_folder: makes the folder of a request that begins; those that are refused leave nothing.
    """

    def __init__(self, max_waiting: int, new_folder: Callable[[], Path]) -> None:
        self._max_waiting, self._new_folder = max_waiting, new_folder
        self._line: deque[Job] = deque()
        self._running: Job | None = None
        self._changed = threading.Condition()
        threading.Thread(target=self._work, name="demo", daemon=True).start()

    def submit(self, session: str, work: Callable[[Path], Any]) -> Job:
        """Puts a computation in line.

        Args:
          session: of the browser.
          work: to be done in the thread of all computations.

        Raises:
          Busy: this browser has one already, or too many others wait.
        """
        with self._changed:
            self._forget_abandoned()
            if self.of(session) is not None:
                raise Busy("Your last request is still at work. Wait for it, or cancel it first.")
            if len(self._line) >= self._max_waiting + (self._running is None):
                raise Busy(
                    f"{len(self._line)} requests wait already, which is the most. Try again soon."
                )
            job = Job(session, work)
            self._line.append(job)
            self._changed.notify_all()
        return job

    def of(self, session: str) -> Job | None:
        """Returns what a browser waits for, if anything.

        Args:
          session: of the browser.
        """
        with self._changed:
            jobs = [*([self._running] if self._running else []), *self._line]
            return next((job for job in jobs if job.session == session), None)

    def ahead_of(self, job: Job) -> int:
        """Returns how many come before a job that waits.

        Args:
          job: in line.
        """
        with self._changed:
            place = self._line.index(job) if job in self._line else 0
            return place + (self._running is not None)

    def cancel(self, session: str) -> bool:
        """Ends what a browser asked for: at once if it waits, else after the steps under way.

        Args:
          session: of the browser.

        Returns:
          whether there was anything to end.
        """
        with self._changed:
            job = self.of(session)
            if job is None:
                return False
            job.asked_to_stop = True
            if job in self._line:
                self._line.remove(job)
                job.state = "cancelled"
            return True

    def _forget_abandoned(self) -> None:
        now = time.monotonic()
        for job in [job for job in self._line if now - job.seen > _ABANDONED_S]:
            self._line.remove(job)
            job.state = "cancelled"

    def _work(self) -> None:
        while True:
            with self._changed:
                self._forget_abandoned()
                while not self._line:
                    self._changed.wait()
                job = self._running = self._line.popleft()
                job.state, job.started = "running", time.monotonic()
            state = _run(job, self._new_folder)
            with self._changed:
                job.seconds = time.monotonic() - job.started
                self._running, job.state = None, state


def _run(job: Job, new_folder: Callable[[], Path]) -> str:
    """Does the work of a job; returns its state, whatever happens."""
    # Warnings are kept for the page. Only this thread computes, so no other's are taken.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            job.folder = new_folder()
            with listening(job.listen):
                job.result = job.work(job.folder)
            return "done"
        except Stopped:
            return "cancelled"
        except (ValueError, FloatingPointError, ImportError, OSError) as error:
            job.error = str(error)
        except MemoryError:
            job.error = _MEMORY
        except jax.errors.JaxRuntimeError as error:
            out_of_memory = "RESOURCE_EXHAUSTED" in str(error)
            job.error = _MEMORY if out_of_memory else _unexpected(error)
        except Exception as error:
            job.error = _unexpected(error)
        finally:
            with contextlib.suppress(Exception):
                job.notes = tuple(
                    dict.fromkeys(
                        str(item.message)
                        for item in caught
                        if issubclass(item.category, UserWarning)
                    )
                )
    return "failed"


_MEMORY = (
    "There is not enough memory for this. Ask for fewer images or a smaller size, or start the "
    "page with --batch_size=1 or --dtype=bfloat16."
)


def _unexpected(error: Exception) -> str:
    """Returns what the page says of a fault of the program, which the terminal tells in full."""
    traceback.print_exc()
    return f"The program failed ({type(error).__name__}); the terminal it runs in says more."
