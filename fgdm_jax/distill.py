"""Attention distillation: how far an adapter moved the prior's attention (FG-DM, eq. 7).

    captured (query, key) --softmax, mean of heads, sum of layers, upscaled--> maps --KL--> loss

The student is the UNet with an adapter, the teacher the same UNet without it, given the same noisy
latents, timesteps and text, which an adapter that translates it reads in its own way, token for
token; `fgdm_jax.denoise.predict_with_attention` captures both.

The paper leaves three things open. Here the key axes of self-attention are upscaled like the query
axes and divided by the growth in keys, so that rows keep their sum; the loss is by default the mean
over the rows of distributions (`row_mean`), whose size depends neither on the resolution nor on the
number of layers; and its weight is the caller's (upstream's is 0.1). Upstream compares detached
logits instead, from which no gradient comes.

Memory: only queries, keys and the summed maps live on to the backward pass, which computes the
softmaxes again. With b examples and n = h w queries those are b n^2 floats for teacher, student and
cotangent each (32 MiB each at 32 x 32 latents and 8 examples, 512 MiB each at 64 x 64), whatever
the number of layers and heads. The heads of one resolution are summed before they are upscaled, a
few at a time, so no more than `_STEP_FLOATS` per-head floats, or one head's, exist at once.

Time: at Stable Diffusion 1.4's size, 8 examples of 32 x 32 latents, a training step takes 4.7 TFLOP
with distillation and 3.1 without. Nearly all of that is the teacher's pass; the maps are 0.2
(`benchmarks/distill_memory.py`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp

from fgdm_jax.networks import Captured
from sd_jax.attention import attention_weights
from sd_jax.convert.component import COMPONENTS
from sd_jax.typing import Array, Float, flat_params
from sd_jax.unet import UNetConfig

Kind: TypeAlias = Literal["self", "cross"]
"""Which attention: among the latents' pixels, or of these to the text."""

Normalisation: TypeAlias = Literal["row_mean", "literal"]
"""row_mean: mean over queries of the divergence of distributions. literal: eq. 7 as it is printed,
the sum over queries and keys of sums over layers; (number of layers x queries) times `row_mean`."""

_ENDINGS: Mapping[str, str] = {"self": "attn1", "cross": "attn2"}

# Smaller probabilities count as this one and get no gradient. A softmax is never 0, but in float32
# it may round to 0; and ratios of what is left, up to 1e30, stay finite with their gradients.
_FLOOR = 1e-30

_STEP_FLOATS = 2**25
"""Elements of per-head maps in one step of the sum over heads: 128 MiB."""


class Divergence(NamedTuple):
    """KL(teacher || student) of each example, zero or more up to rounding.

    Attributes:
      self_attention: [b]; zero where no such layer was chosen.
      cross_attention: [b]; likewise.
    """

    self_attention: Array
    cross_attention: Array


def distillation_loss(
    student: Captured,
    teacher: Captured,
    size: tuple[int, int],
    *,
    layers: str = "all",
    normalisation: Normalisation = "row_mean",
) -> Divergence:
    """Returns how far the student's attention is from the teacher's, which gets no gradient.

    Almost all of the time and the memory goes to self-attention at the highest resolution, whose
    maps have (h w)^2 entries per head and layer; at half the height and width it is a sixteenth. To
    pay less, choose the layers of the second level with half the latents' size,
    `layers="(down_blocks_1|up_blocks_2)/.*"`, or cross-attention alone, `layers=".*/attn2"`.

    Args:
      student: captured with the adapter.
      teacher: captured without it, of the same inputs.
      size: (height, width) to which maps are upscaled; the latents', unless `layers` chooses only
        smaller ones.
      layers: "all", or a regular expression that the whole path of a layer must match.
      normalisation: see `Normalisation`.

    Raises:
      ValueError: student and teacher do not fit one another, no layer is chosen, the layers do not
        fit the size, or the normalisation is unknown; lists all that do not fit.
    """
    if normalisation not in get_args(Normalisation):
        raise ValueError(
            f"unknown normalisation {normalisation!r}; "
            f"choose one of {', '.join(get_args(Normalisation))}"
        )
    student, teacher = choose_layers(student, layers), choose_layers(teacher, layers)
    _check_alike(student, teacher)
    teacher = jax.lax.stop_gradient(teacher)
    return Divergence(
        *(_divergence_of(student, teacher, size, kind, normalisation) for kind in get_args(Kind))
    )


def attention_maps(
    captured: Captured, size: tuple[int, int], kind: Kind
) -> Float[Array, "b queries keys"]:
    """Returns the sum over layers of their maps, averaged over heads and upscaled, in float32.

    Every row is non-negative and sums to the number of layers. Scaling is bilinear with pixel
    centres at half integers (`align_corners=False`), and not antialiased.

    Args:
      captured: at least one layer of the kind.
      size: (height, width) of the result's queries, and keys if of self-attention; each layer's, or
        a whole multiple of it.
      kind: of the layers taken.

    Raises:
      ValueError: there is no layer of the kind, or some do not fit the size.
    """
    chosen = _of_kind(captured, kind)
    if not chosen:
        raise ValueError(f"no {kind}-attention was captured: {_known(captured)}")
    grids = _grids(chosen, size)
    alike: dict[Any, list[str]] = {}
    for path, (query, key) in chosen.items():
        alike.setdefault((query.shape, key.shape), []).append(path)
    # Scaling is linear: once for all layers of a shape.
    maps = [
        _upscaled(_summed_weights([chosen[path] for path in paths]), grids[paths[0]], size, kind)
        for paths in alike.values()
    ]
    return sum(maps[1:], maps[0])


def choose_layers(captured: Captured, layers: str) -> dict[str, tuple[Array, Array]]:
    """Returns the layers whose whole path matches.

    Args:
      captured: of the UNet.
      layers: "all", or a regular expression.

    Raises:
      ValueError: nothing matches.
    """
    check_layers(captured, layers)
    pattern = ".*" if layers == "all" else layers
    return {path: pair for path, pair in captured.items() if re.fullmatch(pattern, path)}


def attention_paths(unet: UNetConfig) -> list[str]:
    """Returns the paths of a UNet's attentions, as they are captured.

    Args:
      unet: its sizes.
    """
    (component,) = (item for item in COMPONENTS if item.name == "unet")
    query = "/to_q/kernel"
    paths = flat_params(component.abstract_params(unet))
    return [path.removesuffix(query) for path in paths if path.endswith(query)]


def check_layers(paths: Collection[str], layers: str) -> None:
    """Checks a choice of attentions.

    Args:
      paths: of all of them.
      layers: "all", or a regular expression.

    Raises:
      ValueError: it is no regular expression, or matches none.
    """
    try:
        pattern = re.compile(".*" if layers == "all" else layers)
    except re.error as error:
        raise ValueError(f"layers={layers!r} is no regular expression ({error})") from error
    if not any(map(pattern.fullmatch, paths)):
        raise ValueError(f"no attention matches layers={layers!r}: {_known(paths)}")


def _divergence_of(
    student: Captured,
    teacher: Captured,
    size: tuple[int, int],
    kind: Kind,
    normalisation: Normalisation,
) -> Float[Array, " b"]:
    num_layers = len(_of_kind(student, kind))
    if num_layers == 0:
        return jnp.zeros(next(iter(student.values()))[0].shape[0])
    maps = [attention_maps(captured, size, kind) / num_layers for captured in (student, teacher)]
    # Without the checkpoint ratios and logarithms would be kept beside the maps.
    divergence = jax.checkpoint(_mean_divergence)(*maps)
    return (
        divergence if normalisation == "row_mean" else divergence * (num_layers * math.prod(size))
    )


def _mean_divergence(
    student: Float[Array, "b q k"], teacher: Float[Array, "b q k"]
) -> Float[Array, " b"]:
    """Returns KL(teacher || student) of distributions over the keys, averaged over the queries.

    Each key adds t log(t / s) - t + s = t (r - log(1 + r)), where r = (s - t) / t. The sum of s - t
    over a row is zero, and with it no term is negative: close distributions differ by the squares
    of small r, which would be lost among terms of both signs.
    """
    student, teacher = jnp.maximum(student, _FLOOR), jnp.maximum(teacher, _FLOOR)
    excess = (student - teacher) / teacher
    is_close = jnp.abs(excess) < 0.5
    log_ratio = jnp.where(
        is_close,
        # The inner choice keeps the unused branch's gradient finite.
        jnp.log1p(jnp.where(is_close, excess, 0.0)),
        jnp.log(student) - jnp.log(teacher),
    )
    return jnp.mean(jnp.sum(teacher * (excess - log_ratio), axis=2), axis=1)


def _summed_weights(pairs: Sequence[tuple[Array, Array]]) -> Float[Array, "b q k"]:
    """Returns the sum over layers of one shape of their weights, averaged over heads.

    Args:
      pairs: (query [b q heads d], key [b k heads d]) of each layer.
    """
    batch, num_queries, num_heads, _ = pairs[0][0].shape
    num_keys = pairs[0][1].shape[1]
    floats = batch * num_queries * num_keys
    num_maps = len(pairs) * num_heads
    per_step = max(
        number
        for number in range(1, num_maps + 1)
        if num_maps % number == 0 and (number == 1 or number * floats <= _STEP_FLOATS)
    )

    def steps(items: Sequence[Array]) -> Float[Array, "steps b q heads d"]:
        # Layers lie behind one another among the heads.
        joined = jnp.concatenate(items, axis=2)
        split = joined.reshape(*joined.shape[:2], -1, per_step, joined.shape[3])
        return jnp.moveaxis(split, 2, 0)

    @jax.checkpoint
    def weights_of(query: Array, key: Array) -> Array:
        return jnp.sum(attention_weights(query, key), axis=1)

    total, _ = jax.lax.scan(
        lambda total, query_key: (total + weights_of(*query_key), None),
        jnp.zeros((batch, num_queries, num_keys)),
        (steps([query for query, _ in pairs]), steps([key for _, key in pairs])),
    )
    return total / num_heads


def _upscaled(
    weights: Float[Array, "b q k"], grid: tuple[int, int], size: tuple[int, int], kind: Kind
) -> Float[Array, "b q2 k2"]:
    """Returns the maps with a query, and in self-attention a key, at each pixel of `size`."""
    if grid == size:
        return weights
    batch, num_queries, num_keys = weights.shape
    keys, scaled_keys = (grid, size) if kind == "self" else ((num_keys,), (num_keys,))
    scaled = jax.image.resize(
        weights.reshape(batch, *grid, *keys),
        (batch, *size, *scaled_keys),
        "bilinear",
        antialias=False,
    )
    if kind == "self":
        scaled = scaled * (num_queries / math.prod(size))
    return scaled.reshape(batch, math.prod(size), math.prod(scaled_keys))


def _of_kind(captured: Captured, kind: Kind) -> Captured:
    ending = _ENDINGS[kind]
    return {path: pair for path, pair in captured.items() if path.endswith(ending)}


def _grids(captured: Captured, size: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Returns (height, width) of each layer's queries: `size` divided by a whole number.

    Raises:
      ValueError: lists the layers of which there is none.
    """
    height, width = size
    of_tokens = {
        (height // factor) * (width // factor): (height // factor, width // factor)
        for factor in range(1, min(size) + 1)
        if height % factor == 0 and width % factor == 0
    }
    tokens = {path: query.shape[1] for path, (query, _) in captured.items()}
    problems = [
        f"{path} has {number} queries" for path, number in tokens.items() if number not in of_tokens
    ]
    if problems:
        raise ValueError(
            f"size {height} x {width} is no whole multiple of some layers' sizes; give the "
            "latents' height and width, or choose layers no larger than it:\n- "
            + "\n- ".join(problems)
        )
    return {path: of_tokens[number] for path, number in tokens.items()}


def _check_alike(student: Captured, teacher: Captured) -> None:
    """Checks that every layer of one has its like in the other.

    Raises:
      ValueError: lists the layers that have not.
    """
    problems = [
        f"{path} was captured of the {owner} only"
        for owner, mine, other in (("student", student, teacher), ("teacher", teacher, student))
        for path in mine
        if path not in other
    ]
    for path in student.keys() & teacher.keys():
        shapes = [tuple(item.shape for item in captured[path]) for captured in (student, teacher)]
        if shapes[0] != shapes[1]:
            problems.append(f"{path}: query and key are {shapes[0]}, the teacher's {shapes[1]}")
    if problems:
        raise ValueError(
            "student and teacher must see inputs of one size through one UNet:\n- "
            + "\n- ".join(sorted(problems))
        )


def _known(paths: Collection[str]) -> str:
    return "there are " + (", ".join(sorted(paths)) or "no layers at all")
