"""Optimizers from a config: clip, moments, weight decay, learning rate; one optax chain.

    gradients -> clip by global norm -> adamw | adamw8bit | adafactor | muon
              -> + weight_decay * params -> * multiplier of the path -> * -learning_rate(count)

The count is of updates that were made, so a step that was skipped moves no schedule.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon

from sd_jax.training.adam8bit import scale_by_adam8bit
from sd_jax.typing import Array, Params, flat_params, nested_params

OptimizerName: TypeAlias = Literal["adamw", "adamw8bit", "adafactor", "muon"]
ScheduleName: TypeAlias = Literal["constant", "cosine", "linear"]

OPTIMIZERS: tuple[OptimizerName, ...] = ("adamw", "adamw8bit", "adafactor", "muon")
SCHEDULES: tuple[ScheduleName, ...] = ("constant", "cosine", "linear")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """How parameters follow from gradients.

    Attributes:
      name: adamw; adamw8bit keeps its moments in 8 bits (arXiv:2110.02861); adafactor keeps no
        first moment and factors the second (arXiv:1804.04235), with the learning rate as given;
        muon makes the first moment of every kernel orthogonal (Jordan et al. 2024), at the size of
        Adam's updates (arXiv:2502.16982), and leaves all else to Adam with Nesterov's momentum.
      learning_rate: after the warm-up.
      schedule: from then on; cosine and linear fall to `final_fraction` at `num_steps`.
      warmup_steps: updates over which the rate grows linearly to `learning_rate`; already the
        first update is made with one part in `warmup_steps` + 1 of it.
      num_steps: updates of the whole run; needed by cosine and linear.
      final_fraction: of `learning_rate` that is left at `num_steps`, 0 to 1.
      b1: decay of Adam's first moment.
      b2: decay of Adam's second moment.
      eps: added to the root of Adam's second moment.
      weight_decay: decoupled, that is params -= rate * weight_decay * params.
      max_grad_norm: gradients are scaled down to this global norm; 0 for no clipping.
      lr_multipliers: (pattern, factor) of whole paths "a/b/c"; the first that matches counts, for
        the weight decay too. 0 leaves parameters as they are.
      no_decay: patterns of paths without weight decay.
    """

    name: OptimizerName = "adamw"
    learning_rate: float = 1e-5
    schedule: ScheduleName = "constant"
    warmup_steps: int = 0
    num_steps: int = 0
    final_fraction: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    max_grad_norm: float = 0.0
    lr_multipliers: tuple[tuple[str, float], ...] = ()
    no_decay: tuple[str, ...] = ()

    def problems(self) -> list[str]:
        """Returns what is wrong with the settings, one line each."""
        is_decaying = self.schedule in ("cosine", "linear")
        checks = [
            ("name", self.name in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}"),
            ("learning_rate", _is_size(self.learning_rate), "a finite number, 0 or more"),
            ("schedule", self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
            ("warmup_steps", self.warmup_steps >= 0, "0 or more"),
            (
                "num_steps",
                not is_decaying or self.num_steps > self.warmup_steps,
                f"more than warmup_steps={self.warmup_steps} where the schedule is "
                f"{self.schedule}; for a short try set warmup_steps=0",
            ),
            ("final_fraction", 0.0 <= self.final_fraction <= 1.0, "0 to 1"),
            ("b1", 0.0 <= self.b1 < 1.0, "0 or more and less than 1"),
            ("b2", 0.0 <= self.b2 < 1.0, "0 or more and less than 1"),
            ("eps", _is_size(self.eps) and self.eps > 0.0, "a finite number above 0"),
            ("weight_decay", _is_size(self.weight_decay), "a finite number, 0 or more"),
            ("max_grad_norm", _is_size(self.max_grad_norm), "a finite number; 0 for no clipping"),
        ]
        return [
            *(
                f"{name} is {getattr(self, name)!r}, expected {expected}"
                for name, is_good, expected in checks
                if not is_good
            ),
            *(
                f"lr_multipliers: {pattern!r} has factor {factor!r}, expected a finite number, "
                "0 or more"
                for pattern, factor in self.lr_multipliers
                if not _is_size(factor)
            ),
            *_pattern_problems("lr_multipliers", [pattern for pattern, _ in self.lr_multipliers]),
            *_pattern_problems("no_decay", self.no_decay),
        ]


def learning_rate(config: OptimizerConfig) -> Callable[[Any], Array]:
    """Returns the function of an update's number, counted from 0, to its learning rate."""
    peak, final = config.learning_rate, config.learning_rate * config.final_fraction
    # At least one, as a constant rate knows no end.
    decay_steps = max(config.num_steps - config.warmup_steps, 1)

    def rate(count: Any) -> Array:
        number = jnp.asarray(count, jnp.float32)
        progress = jnp.clip((number - config.warmup_steps) / decay_steps, 0.0, 1.0)
        if config.schedule == "cosine":
            value = final + (peak - final) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
        elif config.schedule == "linear":
            value = peak + (final - peak) * progress
        else:
            value = jnp.full_like(number, peak)
        return value * jnp.minimum((number + 1.0) / (config.warmup_steps + 1.0), 1.0)

    return rate


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Returns the optimizer; its `init` and `update` need the parameters.

    Paths of its state end in those of the parameters, so that rules for parameters fit it as well.
    The same state fits whatever is set besides `name`. `init` raises ValueError if a pattern of the
    settings matches no parameter.

    Raises:
      ValueError: settings make no sense; lists them all.
    """
    problems = config.problems()
    if problems:
        raise ValueError("\n- ".join(["the optimizer's settings:", *problems]))
    chain = optax.chain(
        _clip(config.max_grad_norm),
        _scale(config),
        optax.add_decayed_weights(config.weight_decay, mask=_decayed(config.no_decay)),
        _scale_by_path(config.lr_multipliers),
        optax.scale_by_learning_rate(learning_rate(config)),
    )

    def init(params: Any) -> Any:
        _check_patterns(config, params)
        return chain.init(params)

    return optax.GradientTransformation(init, chain.update)


def _clip(max_norm: float) -> optax.GradientTransformation:
    return optax.clip_by_global_norm(max_norm) if max_norm else optax.identity()


def _scale(config: OptimizerConfig) -> optax.GradientTransformation:
    if config.name == "adamw":
        return optax.scale_by_adam(config.b1, config.b2, config.eps)
    if config.name == "adamw8bit":
        return scale_by_adam8bit(config.b1, config.b2, config.eps)
    if config.name == "muon":
        return _scale_by_muon(config)
    return optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0))


def _scale_by_muon(config: OptimizerConfig) -> optax.GradientTransformation:
    def matrix(path: str, kernel: Any) -> MuonDimensionNumbers | None:
        if path.rpartition("/")[2] != "kernel" or kernel.ndim < 2:
            return None
        # A kernel is a matrix from all that it reads to its outputs, the last axis.
        return MuonDimensionNumbers(tuple(range(kernel.ndim - 1)), (kernel.ndim - 1,))

    def matrices(params: Any) -> Any:
        flat = flat_params(params)
        return nested_params({path: matrix(path, leaf) for path, leaf in flat.items()})

    # Rates of -1 leave the updates' sign and size to what follows in the chain, as in the others.
    return muon(
        learning_rate=-1.0,
        adam_learning_rate=-1.0,
        adam_b1=config.b1,
        adam_b2=config.b2,
        eps=config.eps,
        consistent_rms=0.2,
        muon_weight_dimension_numbers=matrices,
    )


def _decayed(no_decay: Sequence[str]) -> Callable[[Any], Any]:
    return lambda params: _by_path(params, lambda path: not _matches(no_decay, path))


def _scale_by_path(multipliers: Sequence[tuple[str, float]]) -> optax.GradientTransformation:
    def factor(path: str) -> float:
        return next((size for pattern, size in multipliers if re.fullmatch(pattern, path)), 1.0)

    def scaled(updates: Any, params: Any) -> Any:
        del params
        return jax.tree.map(jnp.multiply, updates, _by_path(updates, factor))

    return optax.stateless(scaled) if multipliers else optax.identity()


def _by_path(params: Params, value: Callable[[str], Any]) -> Params:
    return nested_params({path: value(path) for path in flat_params(params)})


def _matches(patterns: Sequence[str], path: str) -> bool:
    return any(re.fullmatch(pattern, path) for pattern in patterns)


def _check_patterns(config: OptimizerConfig, params: Params) -> None:
    paths = list(flat_params(params))
    patterns = [*(pattern for pattern, _ in config.lr_multipliers), *config.no_decay]
    idle = [item for item in patterns if not any(re.fullmatch(item, path) for path in paths)]
    if idle:
        raise ValueError(
            f"no trainable parameter matches {', '.join(map(repr, idle))} of the optimizer's "
            f"settings; patterns are of whole paths like {', '.join(map(repr, paths[:3]))}"
        )


def _pattern_problems(name: str, patterns: Sequence[str]) -> list[str]:
    problems = []
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            problems.append(f"{name}: {pattern!r} is no regular expression: {error}")
    return problems


def _is_size(number: float) -> bool:
    return math.isfinite(number) and number >= 0.0
