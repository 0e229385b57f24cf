"""The compiled programs of a run: one for each function and shape of batch, and no other."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh

from sd_jax.training.mesh import batch_sharding, replicated


@dataclasses.dataclass(frozen=True)
class Program:
    """A function for arguments of one shape.

    Attributes:
      compiled: for the devices.
      seconds: that tracing and compiling took.
    """

    compiled: Any
    seconds: float


class Programs:
    """A function compiled ahead of time for each shape of its batch, so that nothing else compiles.

    Batches are the arguments that are mappings without a sharding of their own; what else has none
    is on all devices.

    Args:
      function: of arrays and trees of them.
      shardings: of arguments, by position.
      out_shardings: of the outputs.
      mesh: of the run.
      donate: positions of the arguments that are given up.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        shardings: Mapping[int, Any],
        out_shardings: Any,
        mesh: Mesh | AbstractMesh,
        *,
        donate: Sequence[int] = (),
    ) -> None:
        self._function, self._shardings, self._out = function, shardings, out_shardings
        self._rows, self._whole = batch_sharding(mesh), replicated(mesh)
        self._donate = tuple(donate)
        self._programs: dict[Any, Program] = {}

    def __call__(self, *arguments: Any) -> Any:
        """Returns the function's outputs."""
        return self.program(*arguments).compiled(*arguments)

    def program(self, *arguments: Any) -> Program:
        """Returns the program for arguments, or for their shapes; compiles it once."""
        shape = tuple(
            (leaf.shape, str(leaf.dtype))
            for position, argument in enumerate(arguments)
            if position not in self._shardings
            for leaf in jax.tree.leaves(argument)
        )
        if shape not in self._programs:
            started = time.perf_counter()
            compiled = self.trace(*arguments).lower().compile()
            self._programs[shape] = Program(compiled, time.perf_counter() - started)
        return self._programs[shape]

    def trace(self, *arguments: Any) -> Any:
        """Returns the traced program of arguments, or of their shapes."""
        jitted = jax.jit(
            self._function,
            in_shardings=tuple(map(self._sharding, range(len(arguments)), arguments)),
            out_shardings=self._out,
            donate_argnums=self._donate,
        )
        return jitted.trace(*arguments)

    def _sharding(self, position: int, argument: Any) -> Any:
        if position in self._shardings:
            return self._shardings[position]
        is_batch = isinstance(argument, Mapping)
        return dict.fromkeys(argument, self._rows) if is_batch else self._whole
