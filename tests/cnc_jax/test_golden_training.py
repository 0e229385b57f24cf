"""The training loss and its gradients against the original code, and one step of AdamW."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnc_jax.convert import COMPONENTS
from cnc_jax.losses import STAGES, NoiseLoss
from cnc_jax.networks import NetworkSettings
from sd_jax.convert.table import to_theirs
from sd_jax.model import Model
from sd_jax.testing import formula_normal, quick_jit, relative_rms, to_nhwc
from sd_jax.training.optim import OptimizerConfig, make_optimizer
from sd_jax.training.partition import merge_params, split_params
from sd_jax.typing import flat_params

pytestmark = pytest.mark.parity

LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-4
FACTS = json.loads((Path(__file__).parents[1] / "goldens" / "cnc" / "train.json").read_text())
MODES = {"cnc": "joint", "local": "local", "global": "global"}
# Together they have all that they have alone.
MODE_PARAMS = ["cnc", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("local", "global"))]
# The fusers, and the decoder's head: what the original code computes gradients of.
WATCHED = ("local_fuser/.*", "global_fuser/.*", "unet/.*")


class Trainer:
    """The loss of one mode on the goldens' inputs."""

    def __init__(self, model, inputs, mode, is_upstream):
        kept = {
            name: tree
            for name, tree in model.params.items()
            if name == "unet" or name in STAGES[MODES[mode]].components
        }
        self.model = Model(kept, model.config)
        self.names = {
            f"{component.name}/{entry.path}": (
                component.layouts["ldm"].prefix + entry.name,
                entry.kind,
            )
            for component in COMPONENTS
            if component.name in kept
            for entry in component.table("ldm", getattr(model.config, component.name))
        }
        settings = NetworkSettings(encoder_gradient=not is_upstream)
        loss = NoiseLoss(model.config, MODES[mode], settings)
        stage = STAGES[MODES[mode]]
        condition = inputs.condition
        changes = {"exemplar_strengths": None, "residual_scales": None}
        if not stage.has_depth:
            changes["depth_maps"] = None
        if not stage.has_exemplars:
            changes |= {"exemplar_embeddings": None, "masks": None}
        condition = condition.replace(**changes)
        x0, noise = (to_nhwc(formula_normal(f"input.{x}", (2, 4, 16, 16))) for x in ("x0", "noise"))

        def mean_loss(params, frozen):
            whole = Model(merge_params(params, frozen), model.config)
            return jnp.mean(loss.errors(whole, x0, noise, inputs.timesteps, inputs.text, condition))

        self.loss = quick_jit(mean_loss)
        self.gradients = quick_jit(jax.value_and_grad(mean_loss))

    def theirs(self, tree):
        """Returns arrays by the original code's names, in its layout."""
        named = {}
        for path, array in flat_params(tree).items():
            name, kind = self.names[path]
            named[name] = to_theirs(np.asarray(array), kind)
        return named


def norms_by_component(named, components):
    squares = defaultdict(float)
    for name, array in named.items():
        component = next(item for item in components if name.startswith(item + "."))
        squares[component] += float(np.sum(np.square(array, dtype=np.float64)))
    return {component: np.sqrt(square) for component, square in squares.items()}


@pytest.mark.parametrize("variant", ["upstream", "without_no_grad"])
@pytest.mark.parametrize("mode", MODE_PARAMS)
def test_loss_and_gradients(golden_model, golden_inputs, golden, mode, variant):
    facts = FACTS[f"{mode}.{variant}"]
    trainer = Trainer(golden_model, golden_inputs, mode, variant == "upstream")
    watched = [item for item in WATCHED if item.partition("/")[0] in trainer.model.params]
    params, frozen = split_params(trainer.model.params, watched)
    loss, gradients = trainer.gradients(params, frozen)
    assert float(loss) == pytest.approx(facts["loss"], rel=LOSS_TOLERANCE)

    named = trainer.theirs(gradients)
    components = [*facts["params_with_grad"], *facts["params_without_grad"]]
    norms = norms_by_component(named, components)
    assert norms.keys() == set(components)
    for component in facts["params_without_grad"]:
        assert norms[component] == 0
    for component, expected in facts["grad_norm_by_component"].items():
        assert norms[component] == pytest.approx(expected, rel=GRADIENT_TOLERANCE), component
    for component, count in facts["params_with_grad"].items():
        own = [array for name, array in named.items() if name.startswith(component + ".")]
        assert len(own) == count
        assert all(array.any() for array in own), component

    kind = "grad" if variant == "upstream" else "grad_without_no_grad"
    prefix = f"{mode}.{kind}."
    stored = {
        k.removeprefix(prefix): v
        for k, v in golden("train_gradients").items()
        if k.startswith(prefix)
    }
    assert stored or (mode, variant) == ("local", "without_no_grad")
    for name, expected in stored.items():
        assert relative_rms(named[name], expected) < GRADIENT_TOLERANCE, name


@pytest.mark.parametrize("mode", MODE_PARAMS)
def test_one_step_of_adamw(golden_model, golden_inputs, golden, mode):
    trainer = Trainer(golden_model, golden_inputs, mode, is_upstream=True)
    params, frozen = split_params(trainer.model.params, STAGES[MODES[mode]].trainable)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-5))
    _, gradients = trainer.gradients(params, frozen)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    stepped = optax.apply_updates(params, updates)
    expected = FACTS[f"{mode}.upstream"]["loss_after_one_adamw_step"]
    assert float(trainer.loss(stepped, frozen)) == pytest.approx(expected, rel=LOSS_TOLERANCE)
    if mode != "cnc":
        return
    named, before = trainer.theirs(stepped), trainer.theirs(params)
    for name, array in golden("train_step").items():
        name = name.removeprefix("cnc.after_step.")
        # Of the step, which is 1e-5 at most, and not of the parameter.
        assert np.abs(named[name] - array).max() < 2e-7, name
        assert relative_rms(named[name] - before[name], array - before[name]) < 0.02, name
