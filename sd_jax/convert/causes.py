"""Guesses at what a file is when it is not what was expected."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sd_jax.files import LazyTensor

_CONTEXT = "attn2.to_k.weight"
_SUPPORTED = "Stable Diffusion 1.x is supported"

_ADAPTER = "this holds a T2I- or FG-DM adapter; load it with fgdm_jax"

_OTHERS = (
    (("pre_extractor",), "this is Uni-ControlNet; it needs cnc_jax (launch.convert loads it)"),
    (("body.0.", "adapter.body."), _ADAPTER),
)


def likely_causes(tensors: Mapping[str, LazyTensor], *, known: Collection[str]) -> list[str]:
    """Returns what the names and shapes of a file suggest that it is, most telling first.

    Args:
      tensors: of the file.
      known: names of the components found in it; what else it holds is then no cause, but for
        what lies among a component's own names.
    """
    telling = (
        (
            ("lora_", ".lora_down", ".lora_up", ".lora_A.", ".lora_B."),
            "this is a LoRA, a difference to be merged into a full checkpoint",
        ),
        (
            ("conditioner.embedders", "add_embedding.", "label_emb."),
            f"this is Stable Diffusion XL; {_SUPPORTED}",
        ),
        (
            ("joint_blocks.", "double_blocks.", "transformer_blocks.0.attn.add_q_proj"),
            f"this is a transformer model (Stable Diffusion 3, Flux); {_SUPPORTED}",
        ),
        (
            ("cond_stage_model.model.",),
            f"this is Stable Diffusion 2.x (OpenCLIP text encoder); {_SUPPORTED}",
        ),
        (("module.",), "the names carry a `module.` prefix of data-parallel training; strip it"),
    )
    causes = [
        cause
        for fragments, cause in (*telling, *(() if known else _OTHERS))
        if any(fragment in name for name in tensors for fragment in fragments)
    ]
    if not any(name.startswith("adapter_") for name in known):
        within = any(name.startswith("model.diffusion_model.adapter.") for name in tensors)
        causes += [_ADAPTER] * within
    causes += _by_shape(tensors)
    return list(dict.fromkeys(causes))


def _by_shape(tensors: Mapping[str, LazyTensor]) -> list[str]:
    causes = []
    contexts = [tensor.shape for name, tensor in tensors.items() if name.endswith(_CONTEXT)]
    widths = {shape[1] for shape in contexts if len(shape) == 2}
    if 1024 in widths:
        causes.append(
            "this is Stable Diffusion 2.x (cross-attention 1024 wide); "
            "Stable Diffusion 1.x is supported"
        )
    if 2048 in widths:
        causes.append(f"this is Stable Diffusion XL; {_SUPPORTED}")
    for name, tensor in tensors.items():
        if not name.endswith(("input_blocks.0.0.weight", "unet/conv_in.weight")):
            continue
        if tensor.shape[1:2] == (9,):
            causes.append("the UNet is an inpainting one (9 input channels)")
        if tensor.shape[1:2] == (8,):
            causes.append("the UNet is InstructPix2Pix's (8 input channels)")
    return causes
