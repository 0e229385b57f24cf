"""Model and variable -> the prediction of one factor; what sampling and the losses share.

    own noisy latents, or parents' latents --> adapter -- features --.
                                  timesteps --^ (some adapters)      |
    own noisy latents, timesteps, text -------------------------> UNet --> noise, or velocity
                                   '-- translated (some adapters)

The UNet is the same for all factors, and its keys and values of the text do not depend on anything
else: they are computed once for all steps, and serve every factor that reads the text as it is. An
adapter that translates the text has keys and values of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from fgdm_jax.adapter import Adapter, AdapterConfig, translate
from fgdm_jax.convert import adapter_name
from sd_jax.layers import TimestepEmbedding
from sd_jax.model import Model
from sd_jax.network_settings import DEFAULT_SETTINGS, NetworkSettings
from sd_jax.precompute import precompute
from sd_jax.typing import Array, Float, apply_module
from sd_jax.unet import UNet, UNetConfig

Parents: TypeAlias = Array | Sequence[Array] | None
"""Latents of the parents: joined along the channels, or one by one; None for none."""

Captured: TypeAlias = Mapping[str, tuple[Array, Array]]
"""Path of an attention -> (query [b q heads d], key [b k heads d]); "attn1" ends the path of
self-attention, "attn2" that of cross-attention."""


class FactorNetworks:
    """The UNet and the adapter of one variable.

    Attributes:
      model: with both.
      adapter: sizes of the adapter; None for the prior alone.
    """

    def __init__(self, model: Model, variable: str | None, settings: NetworkSettings) -> None:
        """Takes the networks of one factor.

        Args:
          model: from `fgdm_jax.load`.
          variable: whose adapter; None for Stable Diffusion alone.
          settings: of the computation.

        Raises:
          ValueError: there is no such variable, or the model lacks a network.
        """
        model.require("unet")
        self.model = model
        self.adapter: AdapterConfig | None = None
        if variable is not None:
            name = adapter_name(variable)
            model.require(name)
            self.adapter, self._adapter_params = getattr(model.config, name), model.params[name]
        self._settings = settings
        self._unet = UNet(
            model.config.unet, settings.dtype, settings.attention_implementation, settings.remat
        )

    def __call__(
        self,
        latents: Float[Array, "b h w c"],
        timesteps: Array,
        text_embeddings: Float[Array, "b k cc"],
        parents: Parents = None,
        precomputed: Any = None,
    ) -> Float[Array, "b h w out"]:
        """Returns the UNet's prediction: noise, or velocity, by the model's prediction type.

        Args:
          latents: noisy latents of the variable.
          timesteps: 0 to 999, one for each example or one for all.
          text_embeddings: last hidden state of the text encoder.
          parents: latents of the parents; others than of the size of `latents` are resized.
          precomputed: from `precompute_text`, with the same text, and with this variable if its
            adapter translates the text; computed here unless given.

        Raises:
          ValueError: the inputs do not fit the model or one another; all problems are listed.
        """
        inputs, features = self._inputs(latents, timesteps, text_embeddings, parents)
        variables = self._variables(precomputed)
        return apply_module(
            self._unet, variables, *inputs, down_intrablock_additional_residuals=features
        )

    def with_attention(
        self,
        latents: Float[Array, "b h w c"],
        timesteps: Array,
        text_embeddings: Float[Array, "b k cc"],
        parents: Parents = None,
    ) -> tuple[Float[Array, "b h w out"], Captured]:
        """Returns the prediction, and query and key of every attention of the UNet by path.

        Gradients flow through both. What is not used afterwards costs nothing under `jit`.
        """
        inputs, features = self._inputs(latents, timesteps, text_embeddings, parents)
        prediction, collections = self._unet.apply(
            self._variables(None),
            *inputs,
            down_intrablock_additional_residuals=features,
            mutable=["intermediates"],
        )
        return jnp.asarray(prediction), captured_attention(collections["intermediates"])

    def read(self, text_embeddings: Float[Array, "b k cc"]) -> Float[Array, "b k cc"]:
        """Returns the text as this factor has the UNet read it."""
        if self.adapter is None:
            return text_embeddings
        return translate(self.adapter, self._adapter_params, text_embeddings, self._settings.dtype)

    def _inputs(
        self,
        latents: Array,
        timesteps: Array,
        text_embeddings: Array,
        parents: Parents,
    ) -> tuple[tuple[Array, Array, Array], list[Array] | None]:
        """Returns the UNet's inputs, and the adapter's features of them."""
        parents = None if parents is None else as_list(parents)
        check_inputs(self.model.config.unet, self.adapter, latents, text_embeddings, parents)
        timesteps = jnp.broadcast_to(timesteps, latents.shape[:1])
        text_embeddings = self.read(text_embeddings)
        return (latents, timesteps, text_embeddings), self._features(latents, timesteps, parents)

    def _features(
        self, latents: Array, timesteps: Array, parents: list[Array] | None
    ) -> list[Array] | None:
        """Returns what the adapter adds to the encoder's levels; None for the prior alone."""
        if self.adapter is None:
            return None
        height, width = latents.shape[1:3]
        seen = latents if parents is None else join_latents(parents, (height, width))
        adapter = Adapter(self.adapter, self._settings.dtype, self._settings.remat)
        variables = {"params": self._adapter_params}
        if self.adapter.time_embed_dim is None:
            return apply_module(adapter, variables, seen)
        return apply_module(adapter, variables, seen, self._time_embedding(timesteps))

    def _time_embedding(self, timesteps: Array) -> Float[Array, "b e"]:
        """Returns the UNet's own embedding, which the adapters take as it is, frozen."""
        unet = self.model.config.unet
        embedding = TimestepEmbedding(
            unet.block_out_channels[0], unet.time_embed_dim, self._settings.dtype
        )
        params = self.model.params["unet"]["time_embedding"]
        return apply_module(embedding, {"params": params}, timesteps)

    def _variables(self, precomputed: Any) -> dict[str, Any]:
        variables = {"params": self.model.params["unet"]}
        return {**variables, "precomputed": precomputed} if precomputed else variables


def precompute_text(
    model: Model,
    text_embeddings: Float[Array, "b k cc"],
    settings: NetworkSettings = DEFAULT_SETTINGS,
    variable: str | None = None,
) -> Any:
    """Returns the UNet's keys and values of a text, for `precomputed`.

    They depend neither on the latents nor on their size, and on the variable only if its adapter
    translates the text (`translates`): one pytree serves all other factors. Call it inside `jit`.

    Args:
      model: from `fgdm_jax.load`.
      text_embeddings: as the factors' predictions will get them.
      settings: those of the predictions.
      variable: whose factor will read it.
    """
    model.require("unet")
    config: UNetConfig = model.config.unet
    text_embeddings = FactorNetworks(model, variable, settings).read(text_embeddings)
    unet = UNet(config, settings.dtype, settings.attention_implementation)
    batch, size = text_embeddings.shape[0], config.size_multiple
    latents = jnp.zeros((batch, size, size, config.in_channels))
    timesteps = jnp.zeros(batch, jnp.int32)
    return precompute(unet, {"params": model.params["unet"]}, latents, timesteps, text_embeddings)


def translates(model: Model, variable: str | None) -> bool:
    """Returns whether the adapter of a variable translates the text.

    Args:
      model: from `fgdm_jax.load`.
      variable: whose factor; None for the prior alone.
    """
    adapter = None if variable is None else getattr(model.config, adapter_name(variable))
    return adapter is not None and adapter.text_dim is not None


def join_latents(
    latents: Sequence[Float[Array, "b _h _w _c"]], size: tuple[int, int]
) -> Float[Array, "b h w c"]:
    """Returns parents' latents as an adapter takes them: of one size, joined along the channels.

    Args:
      latents: of each parent, in the order of the factor's `parents`.
      size: (height, width) of the factor's own latents; others are resized, bilinearly.
    """
    resized = [
        item
        if item.shape[1:3] == size
        else jax.image.resize(
            item, (item.shape[0], *size, item.shape[3]), "bilinear", antialias=False
        )
        for item in latents
    ]
    return jnp.concatenate(resized, axis=-1)


def captured_attention(intermediates: Mapping[str, Any]) -> dict[str, tuple[Array, Array]]:
    """Returns (query, key) by path of the attention, from what `UNet` put among intermediates."""
    captured: dict[str, tuple[Array, Array]] = {}
    for name, value in intermediates.items():
        if "query_key" in value:
            # `sow` appends; each attention is called once.
            (captured[name],) = value["query_key"]
        else:
            inside = captured_attention(value)
            captured |= {f"{name}/{path}": pair for path, pair in inside.items()}
    return captured


def as_list(parents: Array | Sequence[Array]) -> list[Array]:
    """Returns the latents of the parents one by one; already joined ones are one."""
    return list(parents) if isinstance(parents, Sequence) else [parents]


def check_inputs(
    unet: UNetConfig,
    adapter: AdapterConfig | None,
    latents: Array,
    text_embeddings: Array,
    parents: Sequence[Array] | None,
) -> None:
    """Checks shapes against the sizes of the networks and one another.

    Args:
      unet: sizes.
      adapter: sizes; None for the prior alone.
      latents: of the variable.
      text_embeddings: of the prompts.
      parents: of the factor.

    Raises:
      ValueError: lists everything that does not fit.
    """
    batch, height, width, channels = latents.shape
    problems = []
    if height % unet.size_multiple or width % unet.size_multiple:
        problems.append(
            f"latents are {height} x {width}, but both must be multiples of {unet.size_multiple}"
        )
    if channels != unet.in_channels:
        problems.append(f"latents have {channels} channels, the UNet takes {unet.in_channels}")
    if text_embeddings.shape[::2] != (batch, unet.cross_attention_dim):
        problems.append(
            f"text_embeddings are {text_embeddings.shape}, expected [{batch}, tokens, "
            f"{unet.cross_attention_dim}] for these latents and this UNet"
        )
    if adapter is not None and adapter.text_dim not in (None, unet.cross_attention_dim):
        problems.append(
            f"the adapter translates texts of width {adapter.text_dim}, but the UNet reads texts "
            f"of width {unet.cross_attention_dim}; it was trained on another prior"
        )
    if parents is not None:
        problems += _parent_problems(adapter, batch, parents)
    elif adapter is not None and adapter.in_channels != channels:
        problems.append(
            f"the adapter sees {adapter.in_channels} channels, so it needs the latents of its "
            f"parents; without parents it would see the variable's own {channels}"
        )
    if problems:
        raise ValueError("the inputs do not fit the model:\n- " + "\n- ".join(problems))


def _parent_problems(
    adapter: AdapterConfig | None, batch: int, parents: Sequence[Array]
) -> list[str]:
    problems = []
    shapes = [parent.shape for parent in parents]
    if adapter is None:
        problems.append(
            "parents are given, but without an adapter (variable=None) nothing sees them"
        )
    elif any(len(shape) != 4 for shape in shapes):
        problems.append(f"parents' latents must have 4 axes, got {', '.join(map(str, shapes))}")
    elif sum(shape[3] for shape in shapes) != adapter.in_channels:
        problems.append(
            f"the parents' latents have {sum(shape[3] for shape in shapes)} channels together, the "
            f"adapter sees {adapter.in_channels}: name the parents it was trained with, in their "
            "order"
        )
    wrong = [shape for shape in shapes if shape[0] != batch]
    if wrong:
        problems.append(f"parents' latents are {wrong[0]}, but the batch is of {batch}")
    return problems
