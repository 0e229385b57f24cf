"""Small record sources whose pictures all carry one pattern, so that tests can see what moved."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from typing import Any

import numpy as np

from input_pipeline.codecs import encode_picture
from input_pipeline.schema import RecordError

ALL_FIELDS = (
    "id",
    "captions",
    "height",
    "width",
    "image",
    "background",
    "mask",
    "depth",
    "foreground_depth",
    "background_depth",
    "middle_depth",
    "far_depth",
    "normal",
    "segmentation",
    "canny",
    "sketch",
    "pose",
    "image_embedding",
    "background_embedding",
    "latent_mean",
    "latent_logvar",
    "text_embeddings",
)


def pattern(height: int, width: int, number: int) -> np.ndarray:
    """Returns blocks of 16 pixels, each black or white, without any symmetry: uint8 [h w]."""
    blocks = np.random.default_rng(number).integers(0, 2, (height // 16 + 1, width // 16 + 1))
    return np.kron(blocks, np.ones((16, 16), int))[:height, :width].astype(np.uint8) * 255


class PatternSource:
    """Records that are encoded when asked for; those of `bad` have an image that is no picture."""

    palette = "two"

    def __init__(
        self,
        name: str = "pattern",
        length: int = 10,
        *,
        record_sizes: tuple[tuple[int, int], ...] = ((64, 64),),
        fields: tuple[str, ...] = ALL_FIELDS,
        bad: tuple[int, ...] = (),
    ):
        self.name = name
        self.fields = fields
        self._length = length
        self._record_sizes = record_sizes
        self._bad = bad

    def __len__(self) -> int:
        return self._length

    def sizes(self) -> np.ndarray:
        return np.array([self._size(index) for index in range(self._length)])

    def _size(self, index: int) -> tuple[int, int]:
        return self._record_sizes[index % len(self._record_sizes)]

    def __getitem__(self, index: int) -> dict[str, Any]:
        stored = {
            name: encode_picture(value, _KINDS[name])
            if name in _KINDS
            else json.dumps(value)
            if name == "pose"
            else value
            for name, value in decoded_record(index, self._size(index)).items()
            if name in self.fields
        }
        if index in self._bad:
            stored["image"] = b"no picture"
        return stored


class DecodedSource(PatternSource):
    """The same records without the decoding."""

    def arrays(self, index: int) -> dict[str, Any]:
        record = decoded_record(index, self._size(index))
        return {name: value for name, value in record.items() if name in self.fields}


class SpySource(PatternSource):
    """Records named after the process that read them and what jax has done there."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        is_worker = multiprocessing.parent_process() is not None
        backends = len(sys.modules["jax._src.xla_bridge"]._backends) if is_worker else 0
        platforms = sys.modules["jax"].config.jax_platforms if is_worker else ""
        accelerators = os.environ.get("CUDA_VISIBLE_DEVICES") if is_worker else ""
        return super().__getitem__(index) | {
            "id": f"{os.getpid()} {backends} {platforms} {accelerators!r}"
        }


class OddError(Exception):
    """An error that cannot be pickled, because it wants two arguments."""

    def __init__(self, first: str, second: str):
        super().__init__(first + second)


class OddSource(PatternSource):
    """A source that breaks in a way that the stream knows nothing about."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        raise OddError("broken ", "source")


class RefusingSource(PatternSource):
    """A source that refuses records itself, as shards with a wrong checksum do."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index in self._bad:
            raise RecordError(f"{self.name}: record {index}: checksum differs")
        return PatternSource(self.name, len(self))[index]


_KINDS: dict[str, Any] = {
    "image": "photo",
    "background": "photo",
    "mask": "grey",
    "depth": "deep",
    "foreground_depth": "deep",
    "background_depth": "deep",
    "middle_depth": "deep",
    "far_depth": "deep",
    "normal": "rgb",
    "segmentation": "grey",
    "canny": "grey",
    "sketch": "grey",
}


def decoded_record(index: int, size: tuple[int, int]) -> dict[str, Any]:
    """Returns a record in which all pictures are the pattern of its index."""
    grey = pattern(*size, index)
    deep = grey.astype(np.uint16) * 257
    rgb = np.repeat(grey[..., None], 3, axis=2)
    people = np.zeros((1, 133, 3))
    people[0, 5] = [10, 20, 0.9]
    embedding = np.full(8, 1 + index, np.float32)
    return {
        "id": f"r{index}",
        "captions": [f"{index}: first", "", f"{index}: third"],
        "height": size[0],
        "width": size[1],
        "image": rgb,
        "background": 255 - rgb,
        "mask": grey,
        "depth": deep,
        "foreground_depth": deep,
        "background_depth": 65535 - deep,
        "middle_depth": deep // 2,
        "far_depth": deep // 4,
        "normal": rgb,
        "segmentation": grey // 255,
        "canny": grey,
        "sketch": grey,
        "pose": people.tolist(),
        "image_embedding": embedding,
        "background_embedding": -embedding,
        "latent_mean": np.full((size[0] // 8, size[1] // 8, 4), index, np.float16),
        "latent_logvar": np.full((size[0] // 8, size[1] // 8, 4), -index, np.float16),
        "text_embeddings": np.stack([np.full((7, 8), n, np.float16) for n in range(3)]),
    }


PALETTES = {"two": np.repeat(np.array([0, 255] + [7] * 254, np.uint8)[:, None], 3, axis=1)}


def tokenize(texts: list[str]) -> np.ndarray:
    """Returns 77 ids a text: its characters, then zeros."""
    return np.array([[*map(ord, text[:77]), *[0] * (77 - len(text))] for text in texts])


def draw_pose(people: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns a white pixel at every point that has a score."""
    drawing = np.zeros((*size, 3), np.uint8)
    for x, y, score in people.reshape(-1, 3):
        if score > 0 and 0 <= round(y) < size[0] and 0 <= round(x) < size[1]:
            drawing[round(y), round(x)] = 255
    return drawing
