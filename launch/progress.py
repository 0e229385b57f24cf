"""Progress of loops whose first round compiles."""

from __future__ import annotations

import contextlib
import contextvars
import sys
from collections.abc import Callable, Iterator
from types import TracebackType

from tqdm import tqdm

Listener = Callable[[str, int, int], object]
_listener: contextvars.ContextVar[Listener | None] = contextvars.ContextVar(
    "listener", default=None
)


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tells a function of every progress made inside the block; what it raises ends the work.

    Args:
      listener: called with what is being done, the steps done and all steps.
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


class StepBar:
    """A progress bar whose speed and ETA leave out the first report, which includes compiling.

        with StepBar(50, "seed 0") as bar:
            bar.update(5)

    Args:
      total: steps.
      label: what is being done.
      unit: of a step.
    """

    def __init__(self, total: int, label: str, unit: str = "step") -> None:
        self._total, self._label, self._unit = total, label, unit
        self._done = 0
        self._tell()
        self._bar = self._make(f"{label}: compiling, then the first steps")

    def update(self, count: int) -> None:
        """Counts steps that are done."""
        if self._done:
            self._bar.update(count)
        elif count:
            self._bar.leave = False
            self._bar.close()
            # tqdm's rate is that of the steps after `initial`.
            self._bar = self._make(self._label, initial=count)
        self._done += count
        self._tell()

    def _tell(self) -> None:
        listener = _listener.get()
        if listener is not None:
            listener(self._label, self._done, self._total)

    def _make(self, label: str, initial: int = 0) -> tqdm:
        return tqdm(
            total=self._total, desc=label, unit=self._unit, initial=initial, file=sys.stderr
        )

    def __enter__(self) -> StepBar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()
