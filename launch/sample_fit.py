"""Whether checkpoints hold what a request needs, told from their sizes alone."""

from __future__ import annotations

from launch.sample_request import SampleRequest
from sd_jax.load import Opened


def needed_components(request: SampleRequest, opened: Opened) -> list[str]:
    """Returns the components that the request needs, and the safety checker if there is one."""
    names = ["unet", "vae", "text_encoder"]
    if request.depth_maps or request.photos:
        names.append("local_fuser")
    if request.exemplars:
        names += ["global_fuser", "image_encoder"]
    if request.config.safety_checker and "safety_checker" in opened.configs:
        names.append("safety_checker")
    return names


def fit_problems(request: SampleRequest, opened: Opened) -> list[str]:
    """Returns every missing component and every size that does not fit the request."""
    why = {
        "local_fuser": "depth_maps and photos",
        "global_fuser": "exemplars",
        "image_encoder": "exemplars (a CLIP ViT-L/14 folder, such as clip-vit-large-patch14)",
    }
    problems = [
        f"no {name} in {', '.join(map(str, request.checkpoints))}, which is needed"
        f"{' for ' + why[name] if name in why else ''}; add a checkpoint that has one"
        for name in needed_components(request, opened)
        if name not in opened.configs
    ]
    for name, given in (
        ("local_fuser", bool(request.depth_maps or request.photos)),
        ("global_fuser", bool(request.exemplars)),
    ):
        config = opened.configs.get(name)
        if given and config and config.num_layers != request.num_layers:
            problems.append(
                f"layers given: {request.num_layers}, but the {name.replace('_', ' ')} takes "
                f"{config.num_layers}"
            )
    unet = opened.configs.get("unet")
    if unet is not None and unet.in_channels != unet.out_channels:
        problems.append(
            f"the UNet takes {unet.in_channels} channels and returns {unet.out_channels}; "
            "launch.sample composes with UNets that take latents alone"
        )
    if unet is not None and len(request.residual_scales) not in (1, unet.num_skips + 1):
        problems.append(
            f"residual_scales has {len(request.residual_scales)} numbers, expected 1 or "
            f"{unet.num_skips + 1}"
        )
    local, images = opened.configs.get("local_fuser"), opened.configs.get("image_encoder")
    mapped = bool(request.depth_maps or request.photos)
    if mapped and local is not None and local.condition_channels != 3:
        problems.append(
            f"the local fuser takes maps of {local.condition_channels} channels (as "
            "Uni-ControlNet does); launch.sample gives 3"
        )
    tokens = opened.configs.get("global_fuser")
    if request.exemplars and images and tokens and images.projection_dim != tokens.embedding_dim:
        problems.append(
            f"the image encoder's embeddings are {images.projection_dim} wide, the global fuser "
            f"takes {tokens.embedding_dim}; it wants the CLIP it was trained with (ViT-L/14)"
        )
    return problems
