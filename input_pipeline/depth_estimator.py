"""Depth maps from photos, by a pretrained DPT (MiDaS) or Depth Anything network in PyTorch.

Depth conditions are made once, before training or sampling, so the network need not be rewritten
in JAX: transformers runs it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

    DepthEstimator = Callable[
        [Sequence[UInt8[np.ndarray, "h w 3"]]], list[Float[np.ndarray, "h w"]]
    ]

_MODEL_TYPES = ("dpt", "depth_anything")
_FOLDER_FILES = ("config.json", "preprocessor_config.json")
# Resizing a constant map leaves rounding errors of about 1e-7, which must not become a depth map.
_CONSTANT_RELATIVE_RANGE = 1e-5
# The first fusion layer has nothing to add to its input, so that checkpoints such as
# Intel/dpt-large leave these weights out, and no result depends on them.
_UNUSED_WEIGHTS = re.compile(r"neck\.fusion_stage\.layers\.0\.residual_layer1\..*")


def load_depth_estimator(path: str | Path) -> DepthEstimator:
    """Return a function from photos in 0..255 to their depth maps in [0, 1], near = 1.

    Each map has the size of its photo and uses the whole range; a constant map becomes zero. The
    network runs in float32, on the GPU if PyTorch sees one.

    Args:
        path: Folder of a transformers DPT or Depth Anything model with safetensors weights, or
            the id of one on the hub, such as "Intel/dpt-large" (only this uses the network).

    Raises:
        ImportError: If PyTorch is not installed.
        ValueError: If there is no such model, or it is of another kind, incomplete or damaged.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "load_depth_estimator needs PyTorch, which is not installed; "
            'install the extra of this project that brings it: pip install ".[torch]"'
        ) from error
    source, is_folder = _model_source(path)
    processor, model = _load_model(source, is_folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return partial(_estimate, model.eval().to(device), processor)


def normalise_depth(
    raw: Float[np.ndarray, "h w"], *, is_distance: bool = False
) -> Float[np.ndarray, "h w"]:
    """Return a raw depth map stretched to [0, 1] with near = 1; a constant one becomes zero.

    Args:
        raw: Finite values, of inverse depth (near is large, the default) or distance.
        is_distance: Whether `raw` holds distances, at least 0. Their inverse is what is
            stretched, as in the maps of MiDaS that the models were trained on.

    Raises:
        ValueError: If a value is NaN or infinite.
    """
    values = np.asarray(raw, dtype=np.float32)
    if not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise ValueError(f"the depth map has {count} NaN or infinite values, expected none")
    if is_distance:
        # A distance of zero happens where the network saturates.
        values = 1 / np.maximum(values, np.float32(1e-3))
    lowest, highest = values.min(), values.max()
    if highest - lowest <= _CONSTANT_RELATIVE_RANGE * max(abs(lowest), abs(highest)):
        return np.zeros_like(values)
    return (values - lowest) / (highest - lowest)


def _model_source(path: str | Path) -> tuple[str, bool]:
    """Return what transformers loads, and whether it is a local folder."""
    folder = Path(path)
    if folder.is_dir():
        missing = [name for name in _FOLDER_FILES if not (folder / name).is_file()]
        if not any(folder.glob("*.safetensors")):
            missing.append("model.safetensors")
        if missing:
            raise ValueError(
                f"{path} lacks {', '.join(missing)}; expected a folder as written by "
                "save_pretrained of transformers, with weights in safetensors"
            )
        return str(folder), True
    if isinstance(path, str) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", path):
        return path, False
    raise ValueError(
        f"{path} is not a folder; expected the folder of a DPT or Depth Anything model or a hub "
        "id of the form owner/name"
    )


def _load_model(source: str, is_folder: bool) -> tuple[Any, Any]:
    """Return the image processor and the network, complete and of a known kind."""
    import torch
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForDepthEstimation

    # Nothing that a model brings along is run: neither its code nor a pickle.
    safe = {"local_files_only": is_folder, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(source, **safe)
        if config.model_type not in _MODEL_TYPES:
            raise ValueError(
                f"the model is of type {config.model_type!r}, expected one of {_MODEL_TYPES}"
            )
        # Pillow resizes the same way on every machine, whether or not it has torchvision.
        processor = AutoImageProcessor.from_pretrained(source, backend="pil", **safe)
        model, report = AutoModelForDepthEstimation.from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            **safe,
        )
    # Damaged files raise errors of transformers, safetensors, json and torch.
    except Exception as error:
        where = "" if is_folder else ", neither as a folder here nor from the hub"
        raise ValueError(
            f"{source} cannot be loaded as a depth estimator{where}: {error}"
        ) from error
    missing = sorted(key for key in report["missing_keys"] if not _UNUSED_WEIGHTS.fullmatch(key))
    if missing:
        raise ValueError(
            f"{source} lacks {len(missing)} weights, the first {missing[:5]}; expected all of "
            f"{type(model).__name__}, since random ones would take their place"
        )
    return processor, model


def _estimate(
    model: Any, processor: Any, photos: Sequence[UInt8[np.ndarray, "h w 3"]]
) -> list[Float[np.ndarray, "h w"]]:
    """Return the depth maps of photos, which may differ in size."""
    problems = [
        f"photo {index} has shape {photo.shape} and type {photo.dtype}"
        for index, photo in enumerate(photos)
        if photo.dtype != np.uint8 or photo.shape[2:] != (3,) or 0 in photo.shape
    ]
    if problems:
        raise ValueError(f"{'; '.join(problems)}; expected uint8 [h w 3]")
    is_distance = getattr(model.config, "depth_estimation_type", "relative") == "metric"
    depth_maps = []
    for index, photo in enumerate(photos):
        raw = _predict(model, processor, photo)
        try:
            depth_maps.append(normalise_depth(raw, is_distance=is_distance))
        except ValueError as error:
            raise ValueError(
                f"photo {index}: {error}; the weights may be damaged, fetch the model again"
            ) from error
    return depth_maps


def _predict(
    model: Any, processor: Any, photo: UInt8[np.ndarray, "h w 3"]
) -> Float[np.ndarray, "h w"]:
    """Return the network's output in the size of the photo."""
    import torch

    # As an image, since the processor would take an array three pixels high for channels first.
    image = Image.fromarray(photo)
    inputs = processor(image, return_tensors="pt").to(model.device)
    with torch.inference_mode():
        predicted = model(**inputs).predicted_depth[0].float().cpu().numpy()
    return np.array(Image.fromarray(predicted).resize(image.size, Image.Resampling.BICUBIC))
