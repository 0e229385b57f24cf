"""The tables that move weights: our parameter paths against the names of a PyTorch layout.

A layout is described by the names of its *modules* alone, `{our module path: their module name}`.
What happens to a tensor follows from the leaf's name and rank, so nobody writes transposes by hand:

    .../kernel, 4 axes   height width in out  <->  weight, out in height width
    .../kernel, 2 axes   in out               <->  weight, out in (or out in 1 1: `pointwise`)
    .../scale, embedding                      <->  weight
    .../bias                                  <->  bias

A table is made for one set of sizes from the abstract parameters (`jax.eval_shape`). It is explicit
and one-to-one, so the same table reads and writes, and tells what is missing and what is too much.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping
from typing import Any, Literal

import jax
import numpy as np

from sd_jax.typing import flat_params

Kind = Literal["same", "linear", "pointwise", "conv"]
Shape = tuple[int, ...]

_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor.

    Attributes:
      path: ours, joined by "/".
      name: theirs.
      kind: how the two differ.
      shape: theirs.
    """

    path: str
    name: str
    kind: Kind
    shape: Shape


def to_ours(array: np.ndarray, kind: Kind) -> np.ndarray:
    """Returns a PyTorch tensor in our layout."""
    if kind == "linear":
        return np.ascontiguousarray(array.T)
    if kind == "pointwise":
        return np.ascontiguousarray(array[:, :, 0, 0].T)
    if kind == "conv":
        return np.ascontiguousarray(array.transpose(2, 3, 1, 0))
    return array


def to_theirs(array: np.ndarray, kind: Kind) -> np.ndarray:
    """Returns one of our arrays in PyTorch's layout; undoes `to_ours` exactly."""
    if kind == "linear":
        return np.ascontiguousarray(array.T)
    if kind == "pointwise":
        return np.ascontiguousarray(array.T)[:, :, None, None]
    if kind == "conv":
        return np.ascontiguousarray(array.transpose(3, 2, 0, 1))
    return np.ascontiguousarray(array)


def their_shape(shape: Shape, kind: Kind) -> Shape:
    """Returns the shape of the PyTorch tensor for one of our shapes."""
    if kind == "linear":
        return shape[::-1]
    if kind == "pointwise":
        return (*shape[::-1], 1, 1)
    if kind == "conv":
        return (shape[3], shape[2], shape[0], shape[1])
    return shape


def make_table(
    abstract_params: Mapping[str, Any],
    modules: Mapping[str, str],
    pointwise: Collection[str] = (),
) -> tuple[Entry, ...]:
    """Returns one entry for each parameter.

    Args:
      abstract_params: tree of anything with a `shape`.
      modules: module path -> module name; a parameter outside any module stands under its own path.
      pointwise: module paths of dense layers that the layout stores as 1x1 convolutions.

    Raises:
      KeyError: a module of the tree is not in `modules`; a defect of the table.
    """
    entries = []
    for path, leaf in flat_params(abstract_params).items():
        module, _, leaf_name = path.rpartition("/")
        kind: Kind = "same"
        if leaf_name == "kernel":
            kind = "conv" if len(leaf.shape) == 4 else "linear"
            if kind == "linear" and module in pointwise:
                kind = "pointwise"
        name = modules[path] if path in modules else f"{modules[module]}.{_LEAVES[leaf_name]}"
        entries.append(Entry(path, name, kind, their_shape(tuple(leaf.shape), kind)))
    return tuple(entries)


@functools.lru_cache(maxsize=256)
def abstract_params(module: Any, *inputs: jax.ShapeDtypeStruct) -> Any:
    """Returns the shapes of a module's parameters without computing anything.

    They are remembered, as tracing a UNet takes most of the time in which a checkpoint is checked;
    the tree is shared by all callers. Modules are therefore told apart by their hash: their
    attributes are tuples, not lists.
    """
    variables = jax.eval_shape(lambda *args: module.init(jax.random.key(0), *args), *inputs)
    return variables["params"]


def under(prefix: str, names: Mapping[str, str], separator: str = ".") -> dict[str, str]:
    """Returns `names` with a prefix "ours -> theirs" put before both sides.

    Args:
      prefix: "ours -> theirs".
      names: module names inside the block.
      separator: between their prefix and their names.
    """
    ours, theirs = prefix.split(" -> ")
    return {f"{ours}/{path}": f"{theirs}{separator}{name}" for path, name in names.items()}
