"""Checkpoints of a run: Orbax writes them while training goes on, and no damage goes unseen.

    folder/
      1000/ 2000/ ...    committed: a folder gets its number as name when all of it is written
      3000.damaged/      set aside when a run went on from an older one

Each holds the state, and a record (`checkpoint_record`) with the checksums that the arrays had on
their devices when they were saved. They are compared on the devices after reading, on any mesh.
"""

from __future__ import annotations

import contextlib
import shutil
import time
import warnings
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import jax

from sd_jax.training import checkpoint_files as files
from sd_jax.training.checkpoint_record import (
    CheckpointDamaged,
    Record,
    altered,
    from_json,
    listed,
    make_record,
    misfits,
    to_json,
)
from sd_jax.training.integrity import health
from sd_jax.training.together import failing_together, is_same

_USE_PREVIOUS = "--config.on_damaged_checkpoint=previous goes on from the one before"


class Checkpoints:
    """The checkpoints in a folder. All processes of a run make one and call the same methods.

        with Checkpoints(workdir / "checkpoints") as checkpoints:
            found = checkpoints.restore(abstract)
            ...
            checkpoints.save(step, state, {"seed": 0})

    Leftovers of saves that did not finish are removed at the start, so only one run at a time may
    write to a folder.

    Args:
      folder: made if it is not there.
      keep_last: how many of the newest are kept, at least 1.
      keep_every: checkpoints of steps that this divides are kept for good; 0 for none.

    Raises:
      OSError: the folder cannot be made or read.
      ValueError: the numbers make no sense.
    """

    def __init__(self, folder: Path, *, keep_last: int = 3, keep_every: int = 0) -> None:
        if keep_last < 1 or keep_every < 0:
            raise ValueError(
                f"keep_last={keep_last}, keep_every={keep_every}: expected at least 1 and 0"
            )
        self._folder = folder.absolute()
        self._keep = keep_last, keep_every
        self._saving: int | None = None
        with self._reading():
            self._manager = files.open_manager(self._folder, *self._keep)

    def steps(self) -> list[int]:
        """Returns the steps that are committed, oldest first."""
        with self._reading():
            return files.committed(self._folder)

    def save(self, step: int, state: Any, meta: Mapping[str, Any], *, wait: bool = False) -> None:
        """Starts to write the state; it may be donated as soon as this returns.

        By then Orbax has copied it from accelerators; on the CPU it holds views, which make jax
        leave those buffers alone until they are written.

        A step that is there already is left as it is if the state is the same.

        Args:
          step: later than all that are committed.
          state: tree of arrays.
          meta: anything that JSON can hold.
          wait: whether to return only when it is committed.

        Raises:
          ValueError: the state holds NaN or infinity (names the arrays); or the step is not later
            than all that are there.
          OSError: this save could not be started, or an earlier one failed. Older checkpoints are
            as they were.
        """
        import orbax.checkpoint as ocp

        self.wait()
        report = health(state)
        if report.nonfinite:
            raise ValueError(
                f"step {step} is not saved, as its state holds NaN or infinity in "
                f"{listed(report.nonfinite)}; {self._folder} keeps the checkpoints that are good"
            )
        record = make_record(state, meta, report.checksums)
        if self._is_there(step, record):
            return
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            meta=ocp.args.JsonSave(to_json(record)),
        )
        self._saving = step
        with self._writing(step):
            self._manager.save(step, args=arguments, force=True)
        if wait:
            self.wait()

    def restore(
        self,
        abstract: Any,
        *,
        step: int | None = None,
        on_damage: Literal["fail", "previous"] = "fail",
    ) -> tuple[int, Any, dict[str, Any]] | None:
        """Returns (step, state, meta), or None if there is no checkpoint.

        Args:
          abstract: tree of `jax.ShapeDtypeStruct` with shardings, of any mesh.
          step: a committed one; by default the newest.
          on_damage: "previous" warns of a damaged one, takes the one before it, and when that is
            good sets the damaged ones aside.

        Raises:
          CheckpointDamaged: names step, folder and arrays, and what to do.
          ValueError: the checkpoint's arrays are not those expected (lists all that differ), or
            there is none of this step.
        """
        candidates = [known for known in self._agreed_steps() if step is None or known <= step]
        if step is not None and step not in candidates:
            raise ValueError(f"{self._folder} has no step {step}, but {self.steps() or 'none'}")
        damaged: dict[int, str] = {}
        for candidate in reversed(candidates):
            try:
                state, meta = self._read(candidate, abstract)
            except CheckpointDamaged as error:
                if on_damage == "fail":
                    raise
                warnings.warn(f"{error}; trying the one before", stacklevel=2)
                damaged[candidate] = str(error)
            else:
                if damaged:
                    files.set_aside(self._folder, list(damaged))
                    self._manager.reload()
                return candidate, state, meta
        if damaged:
            raise CheckpointDamaged("\n- ".join(["no checkpoint is good:", *damaged.values()]))
        return None

    def _agreed_steps(self) -> list[int]:
        """Returns the committed steps that all processes see.

        Raises:
          ValueError: some see others, even after a while: file systems over a network are slow to
            tell.
        """
        for wait_s in (0, 1, 5, 25):
            time.sleep(wait_s)
            steps = self.steps()
            if is_same(zlib.crc32(repr(steps).encode()) >> 1):
                return steps
        raise ValueError(
            f"{self._folder}: the processes of this run see different checkpoints, this one "
            f"{steps or 'none'}; the workdir must be one folder that all of them share"
        )

    def meta(self, step: int | None = None) -> dict[str, Any] | None:
        """Returns what was saved with a step, by default the newest, or None if there is none.

        Raises:
          CheckpointDamaged: it cannot be read.
        """
        known = self.steps()
        if not known or (step is not None and step not in known):
            return None
        return self._record(known[-1] if step is None else step).meta

    def wait(self) -> None:
        """Returns when the save that was started last is committed.

        Raises:
          OSError: it failed.
        """
        if self._saving is not None:
            with self._writing(self._saving):
                self._manager.wait_until_finished()
            self._saving = None
            files.remove_leftovers(self._folder)

    def close(self) -> None:
        """Waits, then frees the threads; raises as `wait` does."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _is_there(self, step: int, record: Record) -> bool:
        """Returns whether the same state is committed; raises if another is, or a later one."""
        newest = max(self.steps(), default=-1)
        if step > newest:
            return False
        if step == newest and not altered(self._record(step), record.checksums):
            return True
        raise ValueError(
            f"step {step} is not saved: {self._folder} holds step {newest} of another run, or of "
            "one that went on from an older checkpoint; use another workdir, or move those away"
        )

    def _record(self, step: int) -> Record:
        import orbax.checkpoint as ocp

        with self._damage_named(step):
            folder, handler = self._folder / str(step) / "meta", ocp.JsonCheckpointHandler()
            return from_json(files.read_item(folder, handler, ocp.args.JsonRestore()))

    def _read(self, step: int, abstract: Any) -> tuple[Any, dict[str, Any]]:
        import orbax.checkpoint as ocp

        record = self._record(step)
        # Before reading: another model or optimizer is a mistake of settings, not damage.
        problems = misfits(record, abstract)
        if problems:
            raise ValueError(
                f"{self._folder}: step {step} does not fit this run; use its settings, or another "
                "workdir\n- " + listed(problems, "\n- ")
            )
        other = CheckpointDamaged(f"{self._folder}: another process finds step {step} damaged")
        # All processes, or none, go on to what they compute together.
        with failing_together(other), self._damage_named(step):
            folder, handler = self._folder / str(step) / "state", ocp.StandardCheckpointHandler()
            state = files.read_item(folder, handler, ocp.args.StandardRestore(abstract))
        with failing_together(other), self._damage_named(step):
            changed = altered(record, health(state).checksums)
            if changed:
                raise CheckpointDamaged(f"altered: {listed(changed)}")
        return state, record.meta

    @contextlib.contextmanager
    def _damage_named(self, step: int) -> Iterator[None]:
        try:
            yield
        except (MemoryError, PermissionError, jax.errors.JaxRuntimeError):
            # The machine's fault, which says nothing of the checkpoint.
            raise
        except Exception as error:  # Orbax and TensorStore have no type for damage.
            raise CheckpointDamaged(
                f"{self._folder}: step {step} is damaged ({files.in_short(error)}); "
                f"{_USE_PREVIOUS}, or copy it here again"
            ) from error

    @contextlib.contextmanager
    def _writing(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Whatever fails in Orbax's threads comes out here.
            self._saving = None
            # A manager that failed counts the step as saved; a new one also removes its remains.
            with contextlib.suppress(Exception):
                self._manager.close()
            with contextlib.suppress(OSError):
                self._manager = files.open_manager(self._folder, *self._keep)
            raise OSError(
                f"step {step} was not saved in {self._folder} ({files.in_short(error)}); older "
                f"checkpoints are as they were. {self._free()}; make room or make it writable, "
                "then start again with the same workdir"
            ) from error

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(
                f"{self._folder} cannot hold checkpoints ({files.in_short(error)}); make it a "
                "folder that this user can write to, or use another workdir"
            ) from error

    def _free(self) -> str:
        try:
            return f"{shutil.disk_usage(self._folder).free / 1e9:.1f} GB are free there"
        except OSError:
            return "The folder cannot be read either"
