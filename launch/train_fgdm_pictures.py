"""Pictures of a run of FG-DM: what its trained factors draw; all their other parents are given."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from fgdm_jax.draw import Drawing, draw
from fgdm_jax.examples import presence
from input_pipeline.contact_sheet import Picture
from launch.train_system import Example, Experiment
from sd_jax.encoding import decode_images, latents_scale, posterior_of, text_of
from sd_jax.model import Model


def pictures(config: Any, experiment: Experiment, model: Model, example: Example) -> list[Picture]:
    """Returns the row of an example: each drawn variable, and that of the data beside it.

    Args:
      config: of the run.
      experiment: of the run.
      model: as far as it is trained.
      example: of the evaluation set.
    """
    row = []
    for name, picture in _draw(config, experiment, model, example).items():
        row.append(Picture.photo(f"{name} of: {example.caption}", picture))
        if name in example.batch and _is_there(experiment, example, name):
            row.append(Picture.photo(f"{name} of the data", np.asarray(example.batch[name][0])))
    return row


def _is_there(experiment: Experiment, example: Example, name: str) -> bool:
    """Returns whether the data has a variable of the example; if not, a picture fills its place."""
    return bool(presence(example.batch, experiment.loss.columns, name, 1)[0])


def _draw(
    config: Any, experiment: Experiment, model: Model, example: Example
) -> dict[str, np.ndarray]:
    """Returns a picture in [-1, 1] of each trained variable."""
    dtype = jnp.dtype(config.dtype)
    graph, trained = experiment.loss.graph, experiment.loss.trained
    given = {
        name: posterior_of(model, example.batch, name, dtype).mean
        * latents_scale(model)
        * _is_there(experiment, example, name)
        for factor in graph
        for name in factor.parents
        if factor.variable in trained and name not in trained
    }
    negative = example.negative_embeddings
    scales = {} if negative is None else dict.fromkeys(trained, float(config.guidance_scale))
    drawing = Drawing(
        graph,
        dict.fromkeys(trained, example.latents_size(model)),
        dict.fromkeys(trained, example.table),
        scales,
        dtype=dtype,
        attention_implementation=config.attention,
    )
    states = draw(
        model,
        drawing,
        text_of(model, example.batch, dtype),
        example.keys,
        negative_embeddings=negative,
        wanted=trained,
        given=given,
    ).factors
    return {
        name: np.asarray(decode_images(model, states[name].latents, dtype=dtype))[0]
        for name in trained
    }
