"""FG-DM's training loss (arXiv:2410.21638, eq. 8): the noise errors of all factors in one step.

    each variable   image -> latents -> noisy latents of timestep t, and of t - 1 for its children
    each factor     noisy latents, text, parents' latents of t - 1 -> error of the predicted noise
                    (clean ones for adapters that say so: `AdapterConfig.clean_parents`)
    first factors   and the distance of their attention from the prior's (eq. 7), every n-th step

All variables of an example share its timestep, as they do when they are drawn together.
Pretraining one factor is a graph of which one is trained.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fgdm_jax.controlled import ControlledNetworks
from fgdm_jax.distill import distillation_loss
from fgdm_jax.examples import (
    Noisy,
    column,
    examples_of,
    noisy_latents,
    seen_parents,
)
from fgdm_jax.graph import Factor, FactorGraph, check_graph
from fgdm_jax.load import FGDMConfig
from fgdm_jax.networks import Captured, FactorNetworks
from sd_jax.encoding import Batch, text_of
from sd_jax.losses import Mean, draw, min_snr_weights, prediction_target, squared_errors
from sd_jax.model import Model
from sd_jax.network_settings import DEFAULT_SETTINGS, NetworkSettings
from sd_jax.schedule import make_schedule
from sd_jax.training.partition import merge_params
from sd_jax.typing import Array, Float, Int, KeyArray, Params


@dataclasses.dataclass(frozen=True)
class Distillation:
    """How the factors without parents are kept near the prior's attention (eq. 7).

    Attributes:
      weight: of the distance in the loss; the paper names none, its code has 0.1. 0 leaves it out.
      every: steps from one on which it is computed to the next; the prior's pass costs about as
        much as the factor's own.
      layers: which attentions; see `fgdm_jax.distill.distillation_loss`.
    """

    weight: float = 0.1
    every: int = 1
    layers: str = "all"


class Term(NamedTuple):
    """What a factor adds to the loss; [b] each.

    Attributes:
      errors: squared errors of its prediction.
      distances: of its attention from the prior's.
      counts: 1 where the example counts in it.
    """

    errors: Array
    distances: Array
    counts: Array


@dataclasses.dataclass(frozen=True)
class GraphLoss:
    """A loss function of the training loop.

    Attributes:
      config: sizes of the model.
      graph: factors, of which those that are not trained only give parents.
      trained: variables whose factors are trained.
      settings: of the networks.
      columns: variables of the batch's `present`, in its order; none where all are always there.
      null_parents: probability with which each parent is replaced by zeros (the paper's is 0.2).
      distillation: of the trained adapters without parents.
      min_snr_gamma: weights the timesteps (`sd_jax.losses.min_snr_weights`); 0 leaves them equal.
    """

    config: FGDMConfig
    graph: FactorGraph
    trained: tuple[str, ...]
    settings: NetworkSettings = DEFAULT_SETTINGS
    columns: tuple[str, ...] = ()
    null_parents: float = 0.2
    distillation: Distillation = Distillation()
    min_snr_gamma: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError where the graph, or what is trained of it, cannot be."""
        check_graph(self.graph)
        kinds = {factor.variable: factor.kind for factor in self.graph}
        problems = [] if self.trained else ["no factor is to be trained"]
        problems += [
            f"there is no factor {name!r} to train, but {', '.join(kinds)}"
            for name in self.trained
            if name not in kinds
        ]
        problems += [
            f"factor {name!r} is of kind {kinds[name]!r}, of which nothing is trained here; train "
            "an adapter or a controlnet"
            for name in self.trained
            if kinds.get(name) in ("prior", "cnc")
        ]
        if problems:
            raise ValueError("\n".join(problems))

    def __call__(
        self,
        params: Params,
        frozen: Params,
        batch: Batch,
        keys: KeyArray,
        step: Int[Array, ""] | int = 0,
    ) -> tuple[Float[Array, ""], dict[str, Mean]]:
        """Returns the mean loss of a batch, and the mean noise error of each factor.

        An example counts in the factors whose variable it has, with at least one parent if there
        are any; what it lacks stands in as a parent that was nulled.

        Args:
          params: trainable parameters.
          frozen: the model's other parameters.
          batch: an image in [-1, 1] for each variable, `present`, text.
          keys: one for each example.
          step: number of steps done, for `Distillation.every`.
        """
        terms = self._terms(params, frozen, batch, keys, step=step)
        total, metrics = jnp.zeros(keys.shape[0]), {}
        for name, term in terms.items():
            total += term.counts * (term.errors + self.distillation.weight * term.distances)
            number = jnp.sum(term.counts)
            metrics[f"loss_{name}"] = Mean(jnp.sum(term.errors * term.counts), number)
            if self._is_distilled(name):
                metrics[f"distance_{name}"] = Mean(jnp.sum(term.distances * term.counts), number)
        return jnp.mean(total), metrics

    def per_example(
        self,
        params: Params,
        frozen: Params,
        batch: Batch,
        keys: KeyArray,
        timesteps: Int[Array, " b"] | None = None,
    ) -> Float[Array, " b"]:
        """Returns the sum of the factors' noise errors of each example, without distillation.

        Args:
          params: trainable parameters.
          frozen: the model's other parameters.
          batch: as in `__call__`.
          keys: one for each example.
          timesteps: instead of drawn ones; no parent is then nulled, and no timestep weighted.
        """
        terms = self._terms(params, frozen, batch, keys, timesteps=timesteps)
        return sum((term.errors * term.counts for term in terms.values()), jnp.zeros(len(keys)))

    def _trained_factors(self) -> list[Factor]:
        return [factor for factor in self.graph if factor.variable in self.trained]

    def _terms(
        self,
        params: Params,
        frozen: Params,
        batch: Batch,
        keys: KeyArray,
        *,
        timesteps: Array | None = None,
        step: Array | int | None = None,
    ) -> dict[str, Term]:
        """Returns what each trained factor adds; distances only if a step is given."""
        model = Model(merge_params(params, frozen), self.config)
        schedule, kind = make_schedule(self.config.schedule), self.config.schedule.prediction_type
        is_training = timesteps is None
        if timesteps is None:
            timesteps = draw(keys, (), self.config.schedule.num_train_timesteps).timesteps
        text = text_of(model, batch, self.settings.dtype)
        needed = dict.fromkeys(factor.variable for factor in self._trained_factors())
        for factor in self._trained_factors():
            needed |= dict.fromkeys(factor.parents if factor.kind == "adapter" else ())
        dtype = self.settings.dtype
        noisy = {name: noisy_latents(model, batch, name, keys, timesteps, dtype) for name in needed}
        terms = {}
        for factor in self._trained_factors():
            own = noisy[factor.variable]
            seen = seen_parents(
                factor, batch, self.columns, keys, self.null_parents if is_training else 0.0
            )
            distances = jnp.zeros(len(keys))
            if step is not None and self._is_distilled(factor.variable):
                prediction, distances = self._distilled(
                    model, factor.variable, own.now, timesteps, text, step
                )
            else:
                prediction = self._predict(model, factor, noisy, seen, batch, timesteps, text)
            target = prediction_target(schedule, kind, own.x0, own.noise, timesteps)
            errors = squared_errors(prediction, target)
            if self.min_snr_gamma and is_training:
                errors *= min_snr_weights(schedule, kind, timesteps, self.min_snr_gamma)
            counts = examples_of(factor, batch, self.columns, len(errors))
            terms[factor.variable] = Term(errors, distances, counts)
        return terms

    def _predict(
        self,
        model: Model,
        factor: Factor,
        noisy: Mapping[str, Noisy],
        seen: Mapping[str, Array],
        batch: Batch,
        timesteps: Array,
        text: Array,
    ) -> Array:
        """Returns a factor's prediction: noise, or velocity."""
        latents = noisy[factor.variable].now
        if factor.kind == "controlnet":
            (parent,) = factor.parents
            hint = (batch[parent] / 2 + 0.5) * column(seen[parent], 4)
            return ControlledNetworks(model, self.settings)(latents, timesteps, text, hint)
        networks = FactorNetworks(model, factor.variable, self.settings)
        is_clean = networks.adapter is not None and networks.adapter.clean_parents
        parents = [
            (noisy[name].x0 if is_clean else noisy[name].before) * column(seen[name], 4)
            for name in factor.parents
        ]
        return networks(latents, timesteps, text, parents or None)

    def _distilled(
        self,
        model: Model,
        variable: str,
        latents: Array,
        timesteps: Array,
        text: Array,
        step: Array | int,
    ) -> tuple[Array, Array]:
        """Returns a factor's prediction and its distance from the prior, zero between steps."""
        student = FactorNetworks(model, variable, self.settings)
        teacher = FactorNetworks(model, None, self.settings)
        inputs, layers = (latents, timesteps, text), self.distillation.layers
        # What is captured is computed anyway. Only what the distance adds stands in the condition:
        # XLA's CPU backend runs branches on one core.
        prediction, ours = student.with_attention(*inputs)

        def distances(ours: Captured) -> Array:
            _, theirs = teacher.with_attention(*inputs)
            _, height, width, _ = latents.shape
            both = distillation_loss(ours, theirs, (height, width), layers=layers)
            return both.self_attention + both.cross_attention

        if self.distillation.every == 1:
            return prediction, distances(ours)
        is_due = (jnp.asarray(step) + 1) % self.distillation.every == 0
        nothing = jnp.zeros(latents.shape[0])
        return prediction, jax.lax.cond(is_due, distances, lambda ours: nothing, ours)

    def _is_distilled(self, variable: str) -> bool:
        """Returns whether a factor is kept near the prior: an adapter that sees the text alone."""
        (factor,) = (factor for factor in self.graph if factor.variable == variable)
        return bool(self.distillation.weight) and factor.kind == "adapter" and not factor.parents
