"""Examples into a batch: float32 arrays, NHWC, ready for `jax.device_put`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from input_pipeline.stream.config import VARIABLES, StreamConfig
from input_pipeline.stream.helpers import Helpers
from input_pipeline.stream.transforms import write_scaled

if TYPE_CHECKING:
    from jaxtyping import Float32

    MakeZeros: TypeAlias = Callable[[tuple[int, ...]], Float32[np.ndarray, "..."]]

_LAYERS = {
    "depth_maps": ("foreground_depth", "background_depth"),
    "three_depth_maps": ("foreground_depth", "middle_depth", "far_depth"),
    "edge_maps": ("foreground_edges", "background_edges"),
    "exemplar_embeddings": ("image_embedding", "background_embedding"),
    "exemplar_images": ("image_exemplar", "background_exemplar"),
}


def new_zeros(shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
    """Returns an array of zeros in memory of this process.

    Args:
      shape: any.
    """
    return np.zeros(shape, np.float32)


def new_shared_zeros(shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
    """Returns an array of zeros that a worker hands over as it is; Grain would copy any other.

    Args:
      shape: any.
    """
    from grain.multiprocessing import SharedMemoryArray

    return SharedMemoryArray(shape, np.float32)


def pack(
    examples: Sequence[dict[str, Any]],
    size: tuple[int, int],
    config: StreamConfig,
    helpers: Helpers,
    zeros: MakeZeros = new_zeros,
) -> dict[str, Any]:
    """Returns the batch of examples, with the keys that the settings name.

    Args:
      examples: of one bucket, as `ExampleReader` makes them.
      size: of the bucket.
      config: of the run.
      helpers: of the run.
      zeros: shape -> the array of zeros that pictures are written to.
    """
    batch = {key: _value(key, examples, size, helpers, zeros) for key in config.keys}
    if config.variables:
        batch["present"] = _present(examples, config.variables)
    if "exemplar_images" in config.keys:
        batch["exemplars_present"] = _present(examples, _LAYERS["exemplar_images"])
    return batch


def batch_bytes(config: StreamConfig, helpers: Helpers, rows: int) -> int:
    """Returns about how much memory a batch takes: its pictures, of the largest size.

    Args:
      config: of the run.
      helpers: of the run.
      rows: of the batch.
    """
    channels = dict.fromkeys(VARIABLES, 3)
    channels |= {"image": 3, "depth_maps": 6, "three_depth_maps": 9, "edge_maps": 6, "masks": 2}
    pixels = max(height * width for height, width in config.sizes)
    numbers = pixels * sum(channels.get(key, 0) for key in config.keys)
    if "exemplar_images" in config.keys:
        numbers += 6 * (helpers.exemplar_size or 0) ** 2
    return 4 * rows * numbers


def _value(
    key: str,
    examples: Sequence[dict[str, Any]],
    size: tuple[int, int],
    helpers: Helpers,
    zeros: MakeZeros,
) -> Any:
    count = len(examples)
    if key == "names":
        return [example["name"] for example in examples]
    if key == "captions":
        return [example["caption"] for example in examples]
    if key == "input_ids":
        return helpers.token_ids([example["caption"] for example in examples])
    if key in ("depth_maps", "three_depth_maps", "edge_maps"):
        maps = zeros((count, len(_LAYERS[key]), *size, 3))
        for layer, field in enumerate(_LAYERS[key]):
            _write(examples, field, np.asarray(maps)[:, layer], 0)
        return maps
    if key == "exemplar_images":
        return _exemplar_images(examples, helpers.exemplar_size or 0, zeros)
    if key == "masks":
        masks = zeros((count, 2, *size))
        layers = np.asarray(masks)
        _write(examples, "mask", layers[:, 0, ..., None], 0)
        np.subtract(1, layers[:, 0], out=layers[:, 1])
        return masks
    if key == "exemplar_embeddings":
        return np.stack([_stacked(examples, field) for field in _LAYERS[key]], axis=1)
    if key == "image" or key in VARIABLES:
        pictures = zeros((count, *size, 3))
        _write(examples, key, np.asarray(pictures), -1)
        return pictures
    return _stacked(examples, key)


def _exemplar_images(
    examples: Sequence[dict[str, Any]], side: int, zeros: MakeZeros
) -> Float32[np.ndarray, "b layers side side 3"]:
    fields = _LAYERS["exemplar_images"]
    images = zeros((len(examples), len(fields), side, side, 3))
    for row, example in enumerate(examples):
        for layer, field in enumerate(fields):
            if example[field] is not None:
                np.asarray(images)[row, layer] = example[field]
    return images


def _present(
    examples: Sequence[dict[str, Any]], fields: Sequence[str]
) -> Float32[np.ndarray, "b fields"]:
    there = [[example.get(field) is not None for field in fields] for example in examples]
    return np.array(there, np.float32)


def _write(
    examples: Sequence[dict[str, Any]], field: str, out: Float32[np.ndarray, "b h w c"], low: float
) -> None:
    """Writes the pictures of a field; zeros stay where there is none."""
    for row, example in enumerate(examples):
        if example.get(field) is not None:
            write_scaled(example[field], out[row], low)


def _stacked(examples: Sequence[dict[str, Any]], field: str) -> Float32[np.ndarray, "b ..."]:
    arrays = [example[field] for example in examples]
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        raise ValueError(
            f"field {field!r} has shapes {sorted(shapes)} in one batch, expected one shape in all "
            "sources; prepare them with the same models"
        )
    return np.stack(arrays).astype(np.float32, copy=False)
