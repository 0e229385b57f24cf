"""The compiled programs of a run: one for each function and shape of batch, and no other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from sd_jax.training.mesh import batch_sharding, replicated


class Programs:
    """A function compiled ahead of time for each shape of its batch, so that nothing else compiles.

    Args:
      function: (state, frozen, batch, key) -> outputs, or the same with more arguments.
      shardings: of all arguments but the batch's: {position: tree of shardings}.
      out_shardings: of the outputs.
      mesh: of the run.
      donate: positions of the arguments that are given up.
      report: called with each compiled program and the seconds that it took.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        shardings: Mapping[int, Any],
        out_shardings: Any,
        mesh: Mesh,
        *,
        donate: Sequence[int] = (),
        report: Callable[[Any, float], object] = lambda compiled, seconds: None,
    ) -> None:
        self._function, self._shardings, self._out = function, shardings, out_shardings
        self._rows, self._whole = batch_sharding(mesh), replicated(mesh)
        self._donate, self._report = tuple(donate), report
        self._compiled: dict[Any, Any] = {}

    def lower(self, *arguments: Any) -> Any:
        """Returns the lowered program of arguments, or of their shapes."""
        in_shardings = []
        for position, argument in enumerate(arguments):
            if position in self._shardings:
                in_shardings.append(self._shardings[position])
            elif isinstance(argument, Mapping):
                in_shardings.append(dict.fromkeys(argument, self._rows))
            else:
                in_shardings.append(self._whole)
        jitted = jax.jit(
            self._function,
            in_shardings=tuple(in_shardings),
            out_shardings=self._out,
            donate_argnums=self._donate,
        )
        return jitted.lower(*arguments)

    def compile(self, *arguments: Any) -> Any:
        """Returns the compiled program of arguments, or of their shapes; compiles it once."""
        shape = tuple(
            (leaf.shape, str(leaf.dtype))
            for position, argument in enumerate(arguments)
            if position not in self._shardings
            for leaf in jax.tree.leaves(argument)
        )
        if shape not in self._compiled:
            started = time.perf_counter()
            self._compiled[shape] = self.lower(*arguments).compile()
            self._report(self._compiled[shape], time.perf_counter() - started)
        return self._compiled[shape]

    def __call__(self, *arguments: Any) -> Any:
        """Returns the function's outputs."""
        return self.compile(*arguments)(*arguments)
