"""Ending a run in good order: a signal is noted, and all processes stop after the same step.

Schedulers announce the end of a job by a signal, which may reach one process only. The processes
must still leave the loop together, or the others wait for ever in the next step's collectives.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

EXIT_STOPPED = 75
"""Exit status of a run that saved and stopped on request: EX_TEMPFAIL, run it again to go on."""

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
# Signal numbers are below this, so that a number and a process fit one int32.
_RANGE = 128


class StopRequest:
    """Notes SIGTERM, SIGUSR1 and the first SIGINT; a second SIGINT raises KeyboardInterrupt.

        with StopRequest() as stop:
            for step in range(first_step, num_steps):
                state, metrics = train_step(state, ...)
                if stop.agreed(step):
                    break

    Enter it early: before that, and after it is left, a signal has its usual effect. SIGINT stays
    ignored where the process was started so, as shells do for jobs in the background.

    With several processes an answer is the greatest request among them, as it was at the check
    before. It is computed on the devices, behind the work that they already have, and only read one
    check later: the host never waits for more than the step before the current one, so that the
    devices do not run dry.

    Args:
      every: steps from one check to the next, where there are several processes; 1 or more.
      notify: is told a signal's name when it is noted. It runs between any two instructions of the
        main thread, so it should do no more than write a line.

    Attributes:
      reason: what asked for the stop, such as "SIGTERM" or "SIGTERM on process 3"; None if nothing.
    """

    def __init__(self, every: int = 1, notify: Callable[[str], None] | None = None) -> None:
        if every < 1:
            raise ValueError(f"every: got {every}, expected a number of steps, 1 or more")
        self.reason: str | None = None
        self._every, self._notify = every, notify
        self._noted = 0
        self._interrupted = False
        self._agreed = False
        self._last_check: jax.Array | None = None
        self._old_handlers: dict[signal.Signals, Any] = {}

    def agreed(self, step: int) -> bool:
        """Returns whether to stop after this step: the same on all processes for the same step.

        Once it is true it stays so. Every process must call it for the same steps.

        Args:
          step: that was just done.
        """
        if jax.process_count() == 1:
            return self.reason is not None
        if self._agreed or step % self._every:
            return self._agreed
        previous, self._last_check = self._last_check, self._start_check()
        code = 0 if previous is None else int(np.asarray(previous.addressable_data(0)))
        if code:
            self._agreed = True
            process, number = divmod(code, _RANGE)
            self.reason = f"{signal.Signals(number).name} on process {process}"
        return self._agreed

    def _start_check(self) -> jax.Array:
        """Returns the greatest request of all processes, which need not be computed yet."""
        mesh = Mesh(np.array(jax.devices()), ("all",))
        code = jax.process_index() * _RANGE + self._noted if self._noted else 0
        mine = np.full(jax.local_device_count(), code, np.int32)
        codes = jax.make_array_from_process_local_data(NamedSharding(mesh, P("all")), mine)
        # jax keeps the compiled program, as function and shardings are equal each time.
        return jax.jit(jnp.max, out_shardings=NamedSharding(mesh, P()))(codes)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt
        self._interrupted |= number == signal.SIGINT
        self._noted = number
        self.reason = signal.Signals(number).name
        if self._notify is not None:
            self._notify(self.reason)

    def __enter__(self) -> StopRequest:
        for number in _SIGNALS:
            if number == signal.SIGINT and signal.getsignal(number) is signal.SIG_IGN:
                continue
            old = signal.signal(number, self._note)
            # None stands for a handler that was not installed from Python and cannot be put back.
            self._old_handlers[number] = signal.SIG_DFL if old is None else old
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        self._old_handlers = {}
