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
    "exemplar_embeddings": ("image_embedding", "background_embedding"),
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
        there = [
            [example.get(name) is not None for name in config.variables] for example in examples
        ]
        batch["present"] = np.array(there, np.float32)
    return batch


def batch_bytes(config: StreamConfig, rows: int) -> int:
    """Returns about how much memory a batch takes: its pictures, of the largest size.

    Args:
      config: of the run.
      rows: of the batch.
    """
    channels = {"image": 3, "depth_maps": 6, "masks": 2, **dict.fromkeys(VARIABLES, 3)}
    pixels = max(height * width for height, width in config.sizes)
    return 4 * rows * pixels * sum(channels.get(key, 0) for key in config.keys)


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
    if key == "depth_maps":
        depth_maps = zeros((count, len(_LAYERS[key]), *size, 3))
        for layer, field in enumerate(_LAYERS[key]):
            _write(examples, field, np.asarray(depth_maps)[:, layer], 0)
        return depth_maps
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
