"""Starting points for training, put together from published checkpoints, as upstream names them.

As a local fuser and a UNet share one tree of names, surgery is a copy of equal paths.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from cnc_jax.convert import GLOBAL_FUSER, LOCAL_FUSER
from cnc_jax.global_fuser import GlobalFuserConfig
from cnc_jax.load import CnCConfig
from cnc_jax.local_fuser import LocalFuserConfig
from sd_jax.convert.fresh import fresh_params
from sd_jax.model import Model
from sd_jax.typing import flat_params, nested_params
from sd_jax.unet import UNetConfig

_STEM = "feature_extractor/layers_"
_JOINED = "feature_extractor/extractors_0/kernel"
# Uni-ControlNet stacks seven conditions of 3 channels; these are its depth.
_UNI_DEPTH = slice(15, 18)
# Stem convolutions whose shapes agree with Compose and Conquer's.
_UNI_STEM_LAYERS = (0, 1, 2)


@dataclasses.dataclass(frozen=True)
class Operation:
    """What surgery did.

    Attributes:
      model: the result.
      copied: paths that were taken from a donor ("local_fuser/...").
      fresh: paths that were initialised anew.
    """

    model: Model
    copied: tuple[str, ...]
    fresh: tuple[str, ...]


def init_local(
    model: Model, *, num_layers: int = 2, condition_channels: int = 3, seed: int = 0
) -> Operation:
    """Returns Stable Diffusion with a local fuser that starts from its UNet.

    Args:
      model: Stable Diffusion 1.x.
      num_layers: depth layers.
      condition_channels: channels of a layer's map.
      seed: of what is new: the feature extractor, FDN and the zero convolutions.
    """
    model.require("unet")
    _warn_of_replacement(model, "local_fuser")
    taken, given = model.config.unet.in_channels, model.config.unet.out_channels
    if taken != given:
        raise ValueError(
            f"the UNet takes {taken} channels (inpainting takes 9); a local fuser starts from one "
            f"that takes the {given} of its latents alone"
        )
    config = LocalFuserConfig(
        unet=model.config.unet,
        num_layers=num_layers,
        condition_channels=condition_channels,
        inject_channels=_inject_channels(model.config.unet),
    )
    return _with_local_fuser(model, config, flat_params(model.params["unet"]), {}, seed)


def init_local_fromuni(
    model: Model, *, num_layers: int = 2, depth_streams: str = "uni", seed: int = 0
) -> Operation:
    """Returns Uni-ControlNet made into a local fuser, the published recipe's starting point.

    Args:
      model: Uni-ControlNet, as `cnc_jax.load` reads it.
      num_layers: depth layers.
      depth_streams: "uni" starts every layer's stem from the depth channels of Uni-ControlNet's,
        where shapes agree; "fresh" starts the stems anew, as upstream does.
      seed: of what is new.

    Raises:
      ValueError: the model is no Uni-ControlNet, or `depth_streams` is unknown.
    """
    model.require("unet", "local_fuser")
    donor_config: LocalFuserConfig = model.config.local_fuser
    if donor_config.num_layers != 1:
        raise ValueError(
            f"the checkpoint has {donor_config.num_layers} depth layers; init_local_fromuni takes "
            "Uni-ControlNet, whose conditions share one feature extractor"
        )
    if depth_streams not in ("uni", "fresh"):
        raise ValueError(f"depth_streams must be 'uni' or 'fresh', got {depth_streams!r}")
    config = LocalFuserConfig(
        unet=donor_config.unet,
        num_layers=num_layers,
        inject_channels=donor_config.inject_channels,
    )
    donor = flat_params(model.params["local_fuser"])
    shared = {path: array for path, array in donor.items() if not path.startswith(_STEM)}
    stems = _stems_from_uni(donor, config) if depth_streams == "uni" else {}
    kept = {name: tree for name, tree in model.params.items() if name != "global_fuser"}
    model = Model(kept, dataclasses.replace(model.config, global_fuser=None))
    return _with_local_fuser(model, config, shared, stems, seed)


def extend_local(model: Model, *, num_layers: int = 3) -> Operation:
    """Returns the model with a local fuser of more layers, which starts as the one that it has.

    Layers are added before the last. Each starts with the stem of the layer in front of it, and
    nothing is made of it yet: the first and the last layers alone give what they gave before. A
    global fuser is left out.

    Args:
      model: with a local fuser of two layers or more.
      num_layers: depth layers of the result.

    Raises:
      ValueError: the fuser has too many layers, or one alone (Uni-ControlNet's).
    """
    model.require("local_fuser")
    old: LocalFuserConfig = model.config.local_fuser
    if not 2 <= old.num_layers < num_layers:
        raise ValueError(
            f"the local fuser has {old.num_layers} layers and is to have {num_layers}; "
            "extend_local adds layers to fusers of two or more"
        )
    config = dataclasses.replace(old, num_layers=num_layers)
    donor = flat_params(model.params["local_fuser"])
    front, added = old.num_layers - 1, num_layers - old.num_layers
    origins = [*range(front), *[front - 1] * added, front]
    flat = {path: array for path, array in donor.items() if not path.startswith(_STEM)}
    for layer, origin in enumerate(origins):
        stem = f"{_STEM}{origin}/"
        for path, array in donor.items():
            if path.startswith(stem):
                flat[f"{_STEM}{layer}/{path.removeprefix(stem)}"] = array
    # Where the stems are joined, front to back.
    kernel = np.asarray(donor[_JOINED])
    width = old.stem_channels[-1]
    nothing = np.zeros((*kernel.shape[:2], added * width, kernel.shape[3]), kernel.dtype)
    ahead, last = np.split(kernel, [front * width], axis=2)
    flat[_JOINED] = np.concatenate([ahead, nothing, last], axis=2)
    fuser = nested_params(flat)
    # A global fuser has as many layers as the local one had.
    kept = {name: tree for name, tree in model.params.items() if name != "global_fuser"}
    sizes = _cnc_config(model, local_fuser=config, global_fuser=None)
    return Operation(
        Model({**kept, "local_fuser": fuser}, sizes),
        tuple(f"local_fuser/{path}" for path in flat),
        (),
    )


def init_global(
    model: Model, *, num_layers: int = 2, hidden_multiple: int = 2, seed: int = 0
) -> Operation:
    """Returns the model with a new global fuser.

    Args:
      model: Stable Diffusion 1.x.
      num_layers: layers, each with an exemplar of its own.
      hidden_multiple: width between the two feed-forwards, in embedding widths.
      seed: of the new weights.
    """
    model.require("unet")
    _warn_of_replacement(model, "global_fuser")
    config = GlobalFuserConfig(
        num_layers=num_layers,
        embedding_dim=model.config.unet.cross_attention_dim,
        hidden_multiple=hidden_multiple,
    )
    flat = fresh_params(GLOBAL_FUSER, config, seed)
    fuser = nested_params(flat)
    return Operation(
        Model(
            {**model.params, "global_fuser": fuser},
            _cnc_config(model, global_fuser=config),
        ),
        (),
        tuple(f"global_fuser/{path}" for path in flat),
    )


def integrate(local: Model, global_: Model) -> Operation:
    """Returns the union of a local and a global checkpoint, for joint training.

    Args:
      local: with a local fuser; a global fuser in it is left out.
      global_: with a global fuser; a local fuser in it is left out.

    Raises:
      ValueError: names the tensors, beside those of the fusers, that both hold with other bits.
    """
    local.require("unet", "local_fuser")
    global_.require("global_fuser")
    differing = []
    fusers = {LOCAL_FUSER.name, GLOBAL_FUSER.name}
    for name in sorted((local.params.keys() & global_.params.keys()) - fusers):
        ours, theirs = flat_params(local.params[name]), flat_params(global_.params[name])
        differing += [
            f"{name}/{path}"
            for path in sorted(ours.keys() | theirs.keys())
            if path not in ours or path not in theirs or not _same_bits(ours[path], theirs[path])
        ]
    if differing:
        shown = ", ".join(differing[:10])
        raise ValueError(
            f"the two checkpoints share {len(differing)} tensors that differ ({shown}); both must "
            "have been trained on the same frozen Stable Diffusion"
        )
    configs: dict[str, Any] = {
        field.name: getattr(local.config, field.name, None)
        or getattr(global_.config, field.name, None)
        for field in dataclasses.fields(CnCConfig)
    }
    configs["global_fuser"] = global_.config.global_fuser
    params = {**global_.params, **local.params, "global_fuser": global_.params["global_fuser"]}
    copied = tuple(f"global_fuser/{path}" for path in flat_params(global_.params["global_fuser"]))
    return Operation(Model(params, CnCConfig(**configs)), copied, ())


def _inject_channels(unet: UNetConfig) -> tuple[int, ...]:
    """Returns the widths of the injected features: the released model's, in proportion."""
    released, of_unet = LocalFuserConfig().inject_channels, UNetConfig().block_out_channels
    ratio = unet.block_out_channels[0] / of_unet[0]
    widths = [max(8, round(width * ratio / 8) * 8) for width in released]
    widths += [widths[-1]] * (unet.num_levels - len(widths))
    return tuple(widths[: unet.num_levels])


def _with_local_fuser(
    model: Model,
    config: LocalFuserConfig,
    donor: Mapping[str, Any],
    stems: Mapping[str, Any],
    seed: int,
) -> Operation:
    """Returns the model with a local fuser: donor's equal paths, the given stems, the rest new."""
    flat = fresh_params(LOCAL_FUSER, config, seed)
    copied = {
        path: array
        for path, array in {**donor, **stems}.items()
        if path in flat and array.shape == flat[path].shape
    }
    fuser = nested_params({**flat, **copied})
    return Operation(
        Model({**model.params, "local_fuser": fuser}, _cnc_config(model, local_fuser=config)),
        tuple(f"local_fuser/{path}" for path in copied),
        tuple(f"local_fuser/{path}" for path in flat if path not in copied),
    )


def _warn_of_replacement(model: Model, name: str) -> None:
    if name in model.params:
        warnings.warn(
            f"the checkpoint's own {name.replace('_', ' ')} is replaced by a new one", stacklevel=3
        )


def _stems_from_uni(donor: Mapping[str, Any], config: LocalFuserConfig) -> dict[str, Any]:
    stems = {}
    for layer in range(config.num_layers):
        for conv in _UNI_STEM_LAYERS:
            for leaf in ("kernel", "bias"):
                array = donor[f"{_STEM}0/convs_{conv}/{leaf}"]
                if conv == 0 and leaf == "kernel":
                    array = array[:, :, _UNI_DEPTH]
                stems[f"{_STEM}{layer}/convs_{conv}/{leaf}"] = array
    return stems


def _cnc_config(model: Model, **changes: object) -> CnCConfig:
    fields = {
        field.name: getattr(model.config, field.name) for field in dataclasses.fields(model.config)
    }
    return CnCConfig(**{**fields, **changes})


def _same_bits(ours: Any, theirs: Any) -> bool:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    return (
        ours.dtype == theirs.dtype
        and ours.shape == theirs.shape
        and (ours.tobytes() == theirs.tobytes())
    )
