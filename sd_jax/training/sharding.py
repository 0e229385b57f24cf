"""Which axis of which parameter is split over which axes of the mesh: a table of rules.

    tensor      splits the outputs of to_q, to_k, to_v, net_0, and with them the heads and the inner
                width of the feed-forward; the inputs of to_out_0 and net_2, which come next, so
                that nothing but their sum is sent; the output channels of convolutions
    fsdp        splits the same axis further; without `tensor` the largest one that it divides

An array is split along one axis only, and not along any that is not named for `tensor` if the mesh
has that. Otherwise XLA computes wrong products, or gradients of them, on meshes of 2 x 2 x 2 (jax
0.10.2, both of its partitioners); the tests compare a network on all kinds of meshes with one
device. Data, fsdp and tensor alone cost no more operations than one device in all; fsdp together
with tensor costs about 30 % more, so spread over fsdp first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sd_jax.training.tables import aligned, bytes_text, count_text

Rule: TypeAlias = tuple[str, tuple[str | None, ...]]
"""A pattern of the end of paths ("to_q/kernel"), and for each axis of the array what may split it.

A rule holds for arrays of as many axes as it names; the first that does counts. What is named
"tensor" is split by `tensor` and further by `fsdp`, or by the one that divides it. On a mesh
without a tensor axis `fsdp` splits the largest axis with either name. None: never split.
"""

RULES: tuple[Rule, ...] = (
    (r"(to_out_0|out_proj|net_2|fc2)/kernel", ("tensor", "fsdp")),
    (r"kernel", ("fsdp", "tensor")),
    # Convolutions: height, width, inputs, outputs.
    (r"kernel", (None, None, "fsdp", "tensor")),
    # Not the rows, which the lookup takes by number.
    (r"embedding", (None, "tensor")),
)
"""For the names of Stable Diffusion's networks and of those that are built like them."""

REPLICATED: tuple[Rule, ...] = ()
"""Every array whole on every device."""

SMALL = 2**14
"""Arrays of fewer elements are not split: sending them costs more than keeping them."""


def shardings(
    tree: Any, mesh: Mesh | AbstractMesh, rules: Sequence[Rule] = RULES, *, small: int = SMALL
) -> Any:
    """Returns the tree of shardings: of parameters, or of a training state that holds some.

    The paths of an optimizer's moments end in those of their parameters, so the same rules split
    them in the same way. Scalars, keys and arrays that no rule holds for are whole on each device.

    Args:
      tree: of arrays or of anything with a shape.
      mesh: of the run.
      rules: see `Rule`.
      small: arrays of fewer elements are whole on each device.

    Raises:
      ValueError: a rule names another axis than "fsdp" and "tensor"; lists all.
    """
    _check_rules(rules)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, _spec(path, leaf, mesh, rules, small)), tree
    )


def describe_shardings(tree: Any, chosen: Any) -> str:
    """Returns how much is split in which way, and what each device holds, as a table.

        split over        values    in all  on each device
        fsdp=8      2.02 billion  7.54 GiB         965 MiB
        (whole)     1.10 million  4.20 MiB        4.20 MiB
        total       2.02 billion  7.55 GiB         970 MiB

    Args:
      tree: as given to `shardings`.
      chosen: what it returned.
    """
    sums: dict[str, list[int]] = {}
    for leaf, sharding in zip(jax.tree.leaves(tree), jax.tree.leaves(chosen), strict=True):
        amounts = (
            math.prod(leaf.shape),
            math.prod(leaf.shape) * leaf.dtype.itemsize,
            math.prod(sharding.shard_shape(tuple(leaf.shape))) * leaf.dtype.itemsize,
        )
        for label in (_label(sharding), "total"):
            row = sums.setdefault(label, [0, 0, 0])
            row[:] = [have + more for have, more in zip(row, amounts, strict=True)]
    # The largest first, and the total, which is as large as they are together, last.
    labels = sorted(sums, key=lambda label: (label == "total", -sums[label][1], label))
    rows = [["split over", "values", "in all", "on each device"]]
    for label in labels:
        values, whole, each = sums[label]
        rows.append([label, count_text(values), bytes_text(whole), bytes_text(each)])
    return aligned(rows)


def _label(sharding: NamedSharding) -> str:
    used = jax.tree.leaves(tuple(sharding.spec))
    split = [axis for axis in sharding.mesh.axis_names if axis in used]
    return " x ".join(f"{axis}={sharding.mesh.shape[axis]}" for axis in split) or "(whole)"


def _spec(path: Any, leaf: Any, mesh: Any, rules: Sequence[Rule], small: int) -> P:
    shape = tuple(getattr(leaf, "shape", ()))
    axes = _rule_axes(jax.tree_util.keystr(path, simple=True, separator="/"), len(shape), rules)
    if axes is None or math.prod(shape) < small:
        return P()
    # With a tensor axis in the mesh nothing but the axis named for it is split, see above.
    names = {"fsdp", "tensor"} if mesh.shape["tensor"] == 1 else {"tensor"}
    places = [place for place, axis in enumerate(axes) if axis in names]
    # In this order, so that what `fsdp` gathers is one contiguous part.
    for split in (("tensor", "fsdp"), ("tensor",), ("fsdp",)):
        split = [axis for axis in split if mesh.shape[axis] > 1]
        parts = math.prod(mesh.shape[axis] for axis in split)
        fitting = [place for place in places if shape[place] % parts == 0]
        if split and fitting:
            spec: list[Any] = [None] * len(shape)
            place = max(fitting, key=lambda place: shape[place])
            spec[place] = tuple(split) if len(split) > 1 else split[0]
            return P(*spec)
    return P()


def _rule_axes(name: str, rank: int, rules: Sequence[Rule]) -> tuple[str | None, ...] | None:
    """Returns the axes of the first rule that holds for an array, None if there is none."""
    for pattern, axes in rules:
        if len(axes) == rank and re.fullmatch(f"(?:.*/)?(?:{pattern})", name):
            return axes
    return None


def _check_rules(rules: Sequence[Rule]) -> None:
    wrong = [rule for rule in rules if not set(rule[1]) <= {None, "fsdp", "tensor"}]
    if wrong:
        raise ValueError(
            "sharding rules may name the axes 'fsdp' and 'tensor', or None: "
            f"{'; '.join(map(str, wrong))}"
        )
