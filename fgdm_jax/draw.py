"""Text and a graph -> the latents of all its variables: the jitted programs of sampling.

    text -> keys and values, once for all factors that read it alike
    for each group of factors (`drawn_groups`):
        maps of parents -> hints of ControlNets, once
        joint steps, in a few calls of one compiled program
    latents -> pictures

There is one program for each group, size and kind of guidance. Prompts, seeds, given variables,
guidance scales and samplers of as many steps are arguments: other values compile nothing.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp

from fgdm_jax.controlled import controlnet_denoise_fn, precompute_hint
from fgdm_jax.convert import adapter_name
from fgdm_jax.denoise import factor_denoise_fn
from fgdm_jax.graph import Factor, FactorGraph, Mode, groups, sampling_order
from fgdm_jax.networks import precompute_text, translates
from fgdm_jax.runs import FactorDenoiseFn, FactorRun
from fgdm_jax.sampling import (
    JointState,
    ParentLatents,
    guided_factor,
    hand_over,
    initial_joint_state,
    joint_steps,
)
from fgdm_jax.timetable import JointRows, joint_rows
from sd_jax.attention import Implementation
from sd_jax.encoding import decode_images
from sd_jax.model import Model
from sd_jax.network_settings import NetworkSettings
from sd_jax.sampling import SamplerState, SamplerTable, chunk_size
from sd_jax.typing import Array, Dtype, Float, KeyArray

Sizes = Mapping[str, tuple[int, int]]

HandOver: TypeAlias = Literal["trained", "latents", "x0"]
"""Which latents of their parents adapters see: those that each was trained on, or the same for all
(`sampling.hand_over`)."""


@dataclasses.dataclass(frozen=True)
class Drawing:
    """How a graph is drawn.

    Attributes:
      graph: of the model.
      sizes: (height, width) of each drawn variable's latents.
      tables: sampler of each drawn variable.
      guidance_scales: of the text, by variable; variables that are not named have none. They cost
        twice as much with one.
      mode: "joint" or "sequential" (`graph.groups`).
      what: which latents of their parents adapters see. Those trained on clean ones see them when
        the parents are done; "x0" for all shows in a joint run what they are predicted to be.
      conditioning_scale: of the residuals of ControlNets.
      dtype: type of the computation.
      attention_implementation: see `sd_jax.attention.attention`.
    """

    graph: FactorGraph
    sizes: Sizes
    tables: Mapping[str, SamplerTable]
    guidance_scales: Mapping[str, float] = dataclasses.field(default_factory=dict)
    mode: Mode = "joint"
    what: HandOver = "trained"
    conditioning_scale: float = 1.0
    dtype: Dtype = jnp.float32
    attention_implementation: Implementation = "auto"


def draw(
    model: Model,
    drawing: Drawing,
    text_embeddings: Float[Array, "b k c"],
    keys: KeyArray,
    *,
    negative_embeddings: Float[Array, "b k c"] | None = None,
    wanted: Sequence[str] | None = None,
    given: Mapping[str, Array] | None = None,
    pictures: Mapping[str, Float[Array, "b h w 3"]] | None = None,
    keep: Sequence[int] = (),
    report: Callable[[str, int], object] | None = None,
) -> JointState:
    """Returns the last state of every drawn variable, and the predictions that were kept.

    Args:
      model: from `fgdm_jax.load`.
      drawing: how.
      text_embeddings: of the prompts.
      keys: one for each image; a variable depends on its key, its name and its parents alone.
      negative_embeddings: what guidance leads away from; needed with a guidance scale.
      wanted: variables to draw, with what they are drawn from; None for all.
      given: latents [b h w c] of variables that are not drawn.
      pictures: of given variables, in [-1, 1], which ControlNets see as they are; what is not
        among them is decoded from its latents.
      keep: steps of each group whose predicted clean latents are kept.
      report: called with the group's variables, joined by "+", and the number of steps done.

    Raises:
      ValueError: graph, model and arguments do not fit.
    """
    given = dict(given or {})
    order = sampling_order(drawing.graph, wanted, given)
    if negative_embeddings is None and any(f.variable in drawing.guidance_scales for f in order):
        raise ValueError("guidance scales need negative_embeddings (of '' for no prompt)")
    texts = _texts(model, drawing, order, text_embeddings, negative_embeddings)
    factors: dict[str, SamplerState] = {}
    kept: dict[str, Array] = {}
    for group in drawn_groups(model, drawing, order):
        hints = {
            factor.variable: _hint(model, factor, drawing, given, pictures or {}, texts)
            for factor in group
            if factor.kind == "controlnet"
        }
        state = _draw_group(model, drawing, group, texts, keys, given, hints, keep, report)
        factors |= state.factors
        kept |= state.kept
        given |= {name: item.latents for name, item in state.factors.items()}
    return JointState(factors, kept)


def drawn_groups(model: Model, drawing: Drawing, order: FactorGraph) -> tuple[FactorGraph, ...]:
    """Returns the factors in groups that are drawn one after the other, each by joint steps.

    Args:
      model: from `fgdm_jax.load`.
      drawing: how.
      order: of `graph.sampling_order`.
    """
    waiting = [f.variable for f in order if drawing.what == "trained" and _sees_clean(model, f)]
    return groups(order, drawing.mode, waiting)


def _sees_clean(model: Model, factor: Factor) -> bool:
    """Returns whether a factor is an adapter that was trained on its parents' clean latents."""
    if factor.kind != "adapter" or not factor.parents:
        return False
    adapter = getattr(model.config, adapter_name(factor.variable))
    return adapter is not None and adapter.clean_parents


def _draw_group(
    model: Model,
    drawing: Drawing,
    group: FactorGraph,
    texts: Mapping[str, Any],
    keys: KeyArray,
    given: Mapping[str, Array],
    hints: Mapping[str, Any],
    keep: Sequence[int],
    report: Callable[[str, int], object] | None,
) -> JointState:
    names = [factor.variable for factor in group]
    rows = joint_rows({name: drawing.tables[name] for name in names}, keep)
    channels = model.config.unet.out_channels
    shapes = {name: (*drawing.sizes[name], channels) for name in names}
    state = initial_joint_state(shapes, keys, rows.num_kept)
    seen = {name for factor in group for name in factor.parents} & given.keys()
    scales = {
        name: jnp.asarray([drawing.guidance_scales[name]], jnp.float32)
        for name in names
        if name in drawing.guidance_scales
    }
    num_steps = len(rows.slots)
    size = chunk_size(num_steps)
    for first in range(0, num_steps, size):
        chunk = jax.tree.map(lambda column, first=first: column[first : first + size], rows)
        state = _steps(
            model,
            chunk,
            state,
            keys,
            {name: given[name] for name in seen},
            hints,
            scales,
            {name: texts[name] for name in names},
            jnp.float32(drawing.conditioning_scale),
            group=group,
            sizes=tuple(drawing.sizes[name] for name in names),
            what=drawing.what,
            settings=(drawing.dtype, drawing.attention_implementation),
        )
        if report is not None:
            jax.block_until_ready(state)
            report("+".join(names), size)
    return state


@functools.partial(jax.jit, static_argnames=("group", "sizes", "what", "settings"))
def _steps(
    model: Model,
    rows: JointRows,
    state: JointState,
    keys: KeyArray,
    given: dict[str, Array],
    hints: dict[str, Any],
    scales: dict[str, Array],
    texts: dict[str, Any],
    conditioning_scale: Array,
    *,
    group: FactorGraph,
    sizes: tuple[tuple[int, int], ...],
    what: HandOver,
    settings: tuple[Dtype, Implementation],
) -> JointState:
    runs = {}
    for factor, size in zip(group, sizes, strict=True):
        name = factor.variable
        text, precomputed = texts[name]
        denoise = _denoiser(
            model, factor, text, precomputed, hints.get(name), conditioning_scale, what, settings
        )
        if name in scales:
            denoise = guided_factor(denoise, scales[name])
        parents = () if factor.kind == "controlnet" else factor.parents
        runs[name] = FactorRun(denoise, size, model.config.unet.out_channels, parents)
    return joint_steps(runs, rows, state, keys, given)


def _denoiser(
    model: Model,
    factor: Factor,
    text: Array,
    precomputed: Any,
    hint: Any,
    conditioning_scale: Array,
    what: HandOver,
    settings: tuple[Dtype, Implementation],
) -> FactorDenoiseFn:
    """Returns (latents, timesteps, parents) -> noise of one factor.

    Raises:
      ValueError: it is of a kind that is drawn elsewhere.
    """
    dtype, implementation = settings
    shared = {"dtype": dtype, "attention_implementation": implementation}
    if factor.kind == "controlnet":
        pictures, features = hint
        controlled = controlnet_denoise_fn(
            model,
            text,
            pictures,
            conditioning_scale=conditioning_scale,
            precomputed=features,
            **shared,
        )
        return lambda latents, timesteps, parents: controlled(latents, timesteps)
    if factor.kind not in ("adapter", "prior"):
        raise ValueError(
            f"{factor.variable!r} is of kind {factor.kind!r}, which is drawn elsewhere"
        )
    variable = factor.variable if factor.kind == "adapter" else None
    plain = factor_denoise_fn(
        model,
        variable,
        text,
        has_parents=bool(factor.parents),
        precomputed=precomputed,
        **shared,
    )
    trained: ParentLatents = "x0" if _sees_clean(model, factor) else "latents"
    return hand_over(plain, factor.parents, trained if what == "trained" else what)


def _texts(
    model: Model,
    drawing: Drawing,
    order: FactorGraph,
    text: Array,
    negative: Array | None,
) -> dict[str, Any]:
    """Returns the text of each variable, of all branches of guidance, and its keys and values."""
    settings = (drawing.dtype, drawing.attention_implementation)
    computed: dict[tuple[bool, str | None], Any] = {}
    texts = {}
    for factor in order:
        name = factor.variable
        is_guided = name in drawing.guidance_scales
        # One for all factors that read the text alike.
        own = name if factor.kind == "adapter" and translates(model, name) else None
        if (is_guided, own) not in computed:
            branches = text
            if is_guided and negative is not None:
                branches = jnp.concatenate([negative, text])
            precomputed = _precompute(model, branches, settings, variable=own)
            computed[is_guided, own] = branches, precomputed
        texts[name] = computed[is_guided, own]
    return texts


@functools.partial(jax.jit, static_argnames=("settings", "variable"))
def _precompute(
    model: Model, text: Array, settings: tuple[Dtype, Implementation], *, variable: str | None
) -> Any:
    return precompute_text(model, text, NetworkSettings(*settings), variable)


def _hint(
    model: Model,
    factor: Factor,
    drawing: Drawing,
    given: Mapping[str, Array],
    shown: Mapping[str, Array],
    texts: Mapping[str, Any],
) -> tuple[Float[Array, "b h w 3"], Any]:
    """Returns the picture of a ControlNet's parent in [0, 1], and what follows from it."""
    (parent,) = factor.parents
    height, width = drawing.sizes[factor.variable]
    scale = model.config.vae.downsampling
    pictures = shown.get(parent)
    if pictures is None:
        pictures = decode_images(model, given[parent], dtype=drawing.dtype)
    pictures = pictures / 2 + 0.5
    # Bilinear, as upstream enlarges its maps of 256 pixels to the images' 512.
    shape = (len(pictures), scale * height, scale * width, 3)
    hint = jax.image.resize(pictures, shape, "bilinear", antialias=False)
    text, _ = texts[factor.variable]
    settings = (drawing.dtype, drawing.attention_implementation)
    return hint, _precompute_hint(model, text, hint, settings)


@functools.partial(jax.jit, static_argnames="settings")
def _precompute_hint(
    model: Model, text: Array, hint: Array, settings: tuple[Dtype, Implementation]
) -> Any:
    dtype, implementation = settings
    return precompute_hint(model, text, hint, dtype=dtype, attention_implementation=implementation)
