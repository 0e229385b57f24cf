"""Depth maps from photos, by a pretrained DPT (MiDaS) or Depth Anything network in PyTorch.

Depth conditions are made once, before training or sampling, so the network need not be rewritten
in JAX: transformers runs it.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

_MODEL_TYPES = ("dpt", "depth_anything")
_FOLDER_FILES = ("config.json", "preprocessor_config.json")
# Resizing a constant map leaves rounding errors of about 1e-7, which must not become a depth map.
_CONSTANT_RELATIVE_RANGE = 1e-5
# The first fusion layer has nothing to add to its input, so that checkpoints such as
# Intel/dpt-large leave these weights out, and no result depends on them.
_UNUSED_WEIGHTS = re.compile(r"neck\.fusion_stage\.layers\.0\.residual_layer1\..*")


class DepthEstimator:
    """A network that tells depth, and its image processor.

    It runs in float32, on the GPU if PyTorch sees one; photos of one size run as one batch.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self._model, self._processor = model, processor

    def __call__(
        self, photos: Sequence[UInt8[np.ndarray, "h w 3"]]
    ) -> list[Float[np.ndarray, "h w"]]:
        """Return the depth maps of photos in 0..255, in [0, 1] with near = 1.

        Each map has the size of its photo and uses the whole range; a constant one becomes zero.
        """
        return [normalise_depth(raw) for raw in self.raw(photos)]

    def raw(self, photos: Sequence[UInt8[np.ndarray, "h w 3"]]) -> list[Float[np.ndarray, "h w"]]:
        """Return inverse depth in the network's own unit, near = large.

        Raises:
            ValueError: If a photo is none, or the network gives NaN or infinite values.
        """
        _check_photos(photos)
        maps = _predict(self._model, self._processor, photos)
        metric = getattr(self._model.config, "depth_estimation_type", "relative") == "metric"
        for index, values in enumerate(maps):
            count = int((~np.isfinite(values)).sum())
            if count:
                raise ValueError(
                    f"photo {index}: the depth map has {count} NaN or infinite values, expected "
                    "none; the weights may be damaged, fetch the model again"
                )
        # A distance of zero happens where the network saturates.
        return [1 / np.maximum(values, np.float32(1e-3)) for values in maps] if metric else maps


def load_depth_estimator(path: str | Path) -> DepthEstimator:
    """Return a pretrained depth network.

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
    return DepthEstimator(model.eval().to(device), processor)


def check_depth_estimator(path: str | Path) -> list[str]:
    """Return why `load_depth_estimator` would fail, as far as can be told without loading."""
    problems = []
    if importlib.util.find_spec("torch") is None:
        problems.append('depth needs PyTorch; install it: pip install ".[torch]"')
    try:
        _model_source(path)
    except ValueError as error:
        problems.append(str(error))
    return problems


def normalise_depth(raw: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Return a raw depth map stretched to [0, 1] with near = 1; a constant one becomes zero.

    Args:
        raw: Finite values of inverse depth: near is large.

    Raises:
        ValueError: If a value is NaN or infinite.
    """
    values = np.asarray(raw, dtype=np.float32)
    if not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise ValueError(f"the depth map has {count} NaN or infinite values, expected none")
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


def _check_photos(photos: Sequence[np.ndarray]) -> None:
    problems = [
        f"photo {index} has shape {photo.shape} and type {photo.dtype}"
        for index, photo in enumerate(photos)
        if photo.dtype != np.uint8 or photo.shape[2:] != (3,) or 0 in photo.shape
    ]
    if problems:
        raise ValueError(f"{'; '.join(problems)}; expected uint8 [h w 3]")


def _predict(
    model: Any, processor: Any, photos: Sequence[UInt8[np.ndarray, "h w 3"]]
) -> list[Float[np.ndarray, "h w"]]:
    """Return the network's outputs in the sizes of the photos."""
    import torch

    # As images, since the processor would take an array three pixels high for channels first.
    images = [Image.fromarray(photo) for photo in photos]
    maps: list[Any] = [None] * len(images)
    for size in dict.fromkeys(image.size for image in images):
        indices = [index for index, image in enumerate(images) if image.size == size]
        inputs = processor([images[index] for index in indices], return_tensors="pt")
        with torch.inference_mode():
            predicted = model(**inputs.to(model.device)).predicted_depth.float().cpu().numpy()
        for index, values in zip(indices, predicted, strict=True):
            resized = Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)
            maps[index] = np.array(resized)
    return maps
