"""When each factor steps: samplers of several factors, spread over the steps of one joint run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from sd_jax.sampling import SamplerTable
from sd_jax.typing import Array, Bool, Int


@flax.struct.dataclass
class FactorRows:
    """One factor's part of each step of the joint run; arrays [steps], scalars inside the loop.

    Attributes:
      row: of the factor's own table; where it waits, one that is not used.
      index: of this row in the factor's own table.
      advances: whether the factor takes a step here; None if it does so everywhere, for which
        nothing has to be decided at run time.
    """

    row: SamplerTable
    index: Int[Array, "*steps"]
    advances: Bool[Array, "*steps"] | None


@flax.struct.dataclass
class JointRows:
    """All samplers, step by step of the joint run. Any cut along the first axis can be run.

    Attributes:
      factors: by variable.
      slots: where this step's predictions are kept; `num_kept` if they are not.
      num_kept: number of slots.
    """

    factors: dict[str, FactorRows]
    slots: Int[Array, "*steps"]
    num_kept: int = flax.struct.field(pytree_node=False)


def joint_rows(tables: Mapping[str, SamplerTable], keep: Sequence[int] = ()) -> JointRows:
    """Returns what every factor does in each step of the joint run.

    The run has as many steps as the longest table, N. A factor of n steps takes one in step i if
    floor((i + 1) n / N) > floor(i n / N). So all factors end together. A factor of fewer steps than
    its parents sees them at the noise level that its own step goes to, as it would if they had as
    few; a parent of fewer steps is less than one of its own steps behind its children.

    Args:
      tables: the sampler of each variable (`sd_jax.samplers`).
      keep: steps of the joint run, from 0, after which the predicted clean latents are kept, in
        this order. A factor that waits there keeps its latest prediction, zeros before the first.

    Raises:
      ValueError: there is no table, one is empty, or `keep` names a step twice or one that is not
        there.
    """
    lengths = {variable: table.timesteps.shape[0] for variable, table in tables.items()}
    num_steps = max(lengths.values(), default=0)
    problems = [f"the table of {name!r} has no steps" for name, n in lengths.items() if n == 0]
    if not tables:
        problems.append("there are no tables; give one for each variable to draw")
    outside = [step for step in keep if not 0 <= step < num_steps]
    if outside:
        problems.append(f"keep must be steps from 0 to {num_steps - 1}, got {outside}")
    if len(set(keep)) < len(keep):
        problems.append(f"keep must name each step once, got {list(keep)}")
    if problems:
        raise ValueError("\n".join(problems))
    slots = np.full(num_steps, len(keep), np.int32)
    slots[np.asarray(keep, np.int32)] = np.arange(len(keep))
    factors = {variable: _spread(table, num_steps) for variable, table in tables.items()}
    return JointRows(factors, jnp.asarray(slots), len(keep))


def _spread(table: SamplerTable, num_steps: int) -> FactorRows:
    """Returns a table of n <= num_steps rows, spread over num_steps."""
    length = table.timesteps.shape[0]
    done = np.arange(num_steps + 1, dtype=np.int32) * length // num_steps
    index = np.maximum(done[1:] - 1, 0)
    if length == num_steps:
        return FactorRows(table, jnp.asarray(index), None)
    row = jax.tree.map(lambda column: column[index], table)
    return FactorRows(row, jnp.asarray(index), jnp.asarray(done[1:] > done[:-1]))
