"""Examples that the stream gives in a second, from pixels and from cached latents, as JSON lines.

    python benchmarks/stream.py
    python benchmarks/stream.py --case=pixels --profile
    python benchmarks/stream.py --workers=4

Writes shards of its own in a temporary folder and reads them as training does. Records are 512 x
512: a JPEG photo, two 16-bit depth maps and a mask as PNG, and cached arrays of Stable Diffusion's
sizes. Without workers one thread does all, and `per_core_s` counts the process's own seconds, so
that other work on the machine counts little. With workers it is `per_s`, on the clock, that counts,
and `main_ms` is what the main process spends on an example: nearly nothing, or it would be the
limit.
"""

from __future__ import annotations

import cProfile
import io
import json
import os
import pstats
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import app, flags
from PIL import Image

from input_pipeline.codecs import encode_picture
from input_pipeline.scenes import Scenes
from input_pipeline.shards import ShardedRecords, shard_name, write_manifest, write_shard
from input_pipeline.stream import CNC_DROP, Helpers, StreamConfig, batches

if TYPE_CHECKING:
    from jaxtyping import Float

    from input_pipeline.schema import Record, RecordSource

_CONDITIONS = ("depth_maps", "masks", "exemplar_embeddings", "input_ids")
_LATENTS = ("latent_mean", "latent_logvar", "exemplar_embeddings", "input_ids")
_AUGMENTED = {"crop": "random", "flip": 0.5, "drop": CNC_DROP}
CASES: dict[str, dict[str, Any]] = {
    "pixels": {"keys": ("image", *_CONDITIONS)},
    "augmented": {"keys": ("image", *_CONDITIONS), **_AUGMENTED},
    "latents": {"keys": _LATENTS},
    "latents_and_maps": {"keys": ("latent_mean", "latent_logvar", *_CONDITIONS)},
    "scenes": {
        "keys": ("image", "depth_maps", "masks", "captions"),
        "sizes": ((64, 64),),
        "batch_size": 64,
    },
}

_CASE = flags.DEFINE_enum("case", "all", ["all", *CASES], "What batches hold.")
_SECONDS = flags.DEFINE_float("seconds", 10.0, "Of each measurement.", lower_bound=0.1)
_BATCH = flags.DEFINE_integer("batch", 16, "Examples of a batch.", lower_bound=1)
_RECORDS = flags.DEFINE_integer("records", 48, "Different records.", lower_bound=1)
_WORKERS = flags.DEFINE_integer("workers", 0, "Worker processes.", lower_bound=0)
_PROFILE = flags.DEFINE_boolean("profile", False, "Also tell where the time goes.")

_SIDE = 512
_SHOWN = 12


def tokenize(texts: list[str]) -> np.ndarray:
    """Returns token ids of the right shape; the real tokenizer takes about 0.1 ms a text."""
    return np.full((len(texts), 77), 49407)


def landscape(rng: np.random.Generator, finest: int, channels: int) -> Float[np.ndarray, "h w c"]:
    """Returns noise in [0, 1] with as much of it in every octave, as photos and depth have.

    Args:
      rng: source of randomness.
      finest: pixels of the smallest structure.
      channels: of the picture.
    """
    picture = np.zeros((_SIDE, _SIDE, channels), np.float32)
    step = finest
    while step < _SIDE:
        grid = rng.normal(size=(channels, _SIDE // step + 1, _SIDE // step + 1))
        for channel in range(channels):
            coarse = Image.fromarray(grid[channel].astype(np.float32))
            fine = coarse.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
            picture[..., channel] += step * np.asarray(fine)
        step *= 2
    return (picture - picture.min()) / np.ptp(picture)


def make_record(number: int) -> Record:
    """Returns a record of everything that the cases need.

    Args:
      number: of the record.
    """
    rng = np.random.default_rng(number)
    depths = [(landscape(rng, 8, 1)[..., 0] * 65535).astype(np.uint16) for _ in range(2)]
    latents = rng.normal(size=(2, _SIDE // 8, _SIDE // 8, 4)).astype(np.float16)
    return {
        "id": f"r{number}",
        "captions": [f"caption {caption} of {number}" for caption in range(5)],
        "height": _SIDE,
        "width": _SIDE,
        "image": encode_picture((landscape(rng, 1, 3) * 255).astype(np.uint8), "photo"),
        "mask": encode_picture((depths[0] > 40000).astype(np.uint8) * 255, "grey"),
        "foreground_depth": encode_picture(depths[0], "deep"),
        "background_depth": encode_picture(depths[1], "deep"),
        "image_embedding": rng.normal(size=768).astype(np.float32),
        "background_embedding": rng.normal(size=768).astype(np.float32),
        "latent_mean": latents[0],
        "latent_logvar": latents[1],
    }


def write_records(folder: Path) -> None:
    """Writes shards of the records.

    Args:
      folder: to write to.
    """
    records = map(make_record, range(_RECORDS.value))
    info = write_shard(folder / shard_name("bench", 0, 1), records, make_record(0))
    write_manifest(folder, [info])


def source_of(case: str, folder: Path) -> tuple[RecordSource, StreamConfig]:
    """Returns the records and settings of a case.

    Args:
      case: one of `CASES`.
      folder: of the shards.
    """
    config = StreamConfig(**{"batch_size": _BATCH.value, "sizes": ((_SIDE, _SIDE),)} | CASES[case])
    if case == "scenes":
        return Scenes(size=config.sizes[0], fields=config.required_fields), config
    needed = dict.fromkeys(("id", "height", "width", *config.required_fields))
    return ShardedRecords(folder, needed), config


def measure(source: RecordSource, config: StreamConfig) -> dict[str, Any]:
    """Returns the figures of a case."""
    workers = _WORKERS.value
    options: dict[str, Any] = {"num_workers": workers} if workers else {"prefetch": 0}
    with batches([source], config, helpers=Helpers(tokenize), num_threads=1, **options) as stream:
        for _ in range(max(1, 2 * workers)):
            next(stream)
        start, spent, count = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - start < _SECONDS.value:
            next(stream)
            count += config.batch_size
        seconds, spent = time.perf_counter() - start, time.process_time() - spent
    figures = {"examples": count, "per_s": round(count / seconds, 1)}
    if workers:
        return figures | {"main_ms": round(1e3 * spent / count, 3)}
    return figures | {"per_core_s": round(count / spent, 1)}


def breakdown(source: RecordSource, config: StreamConfig) -> list[dict[str, Any]]:
    """Returns the functions in which one thread spends most time, without what they call."""
    profile = cProfile.Profile()
    with batches([source], config, helpers=Helpers(tokenize), num_threads=1, prefetch=0) as stream:
        next(stream)
        start, count = time.perf_counter(), 0
        profile.enable()
        while time.perf_counter() - start < _SECONDS.value:
            next(stream)
            count += config.batch_size
        profile.disable()
    stats = pstats.Stats(profile, stream=io.StringIO()).get_stats_profile()
    functions = sorted(stats.func_profiles.items(), key=lambda item: -item[1].tottime)
    return [
        {"function": name, "ms": round(1e3 * entry.tottime / count, 3)}
        for name, entry in functions[:_SHOWN]
    ]


def main(arguments: list[str]) -> None:
    """Prints a line for each case."""
    del arguments
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_records(folder)
        record = make_record(0)
        sizes = {key: len(value) for key, value in record.items() if isinstance(value, bytes)}
        print(json.dumps({"bytes": sizes, "cores": os.cpu_count()}), flush=True)
        for case in CASES if _CASE.value == "all" else [_CASE.value]:
            source, config = source_of(case, folder)
            line = {"case": case, "workers": _WORKERS.value, **measure(source, config)}
            if _PROFILE.value:
                line["ms_an_example"] = breakdown(source, config)
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    app.run(main)
