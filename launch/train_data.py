"""The data of a run: sources, the stream of training batches, and a fixed evaluation set."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from input_pipeline.scenes import Scenes
from input_pipeline.schema import RecordSource
from input_pipeline.shards import ShardedRecords
from input_pipeline.shards.manifest import MANIFEST
from input_pipeline.stream import Helpers, Stream, StreamConfig, batches, plan_of
from launch.train_request import SCENES, TrainError, TrainRequest
from sd_jax.training.mesh import global_batch, process_share

# What pictures are labelled with, and what buckets are made of; neither is in every batch.
_LABELS = ("captions",)
_SIZES = ("height", "width")


@dataclasses.dataclass(frozen=True)
class BatchNeeds:
    """What a run's loss wants to find in a batch.

    Attributes:
      keys: of the batch.
      conditions: names of conditions that training drops (`StreamConfig.drop`), beside captions.
      helpers: tokenizer and sizes that the keys need.
      maps: variables that take the image's place in a part of the examples.
      map_share: probability of that.
    """

    keys: tuple[str, ...]
    conditions: tuple[str, ...]
    helpers: Helpers
    maps: tuple[str, ...] = ()
    map_share: float = 0.0


@dataclasses.dataclass(frozen=True)
class RunData:
    """Opened data of a run.

    Attributes:
      request: of the run.
      needs: of its loss.
      sources: for training.
      eval_sources: held out, or the same.
      config: of the training stream.
      steps_per_epoch: of the training stream.
      fingerprint: of its records and their order.
    """

    request: TrainRequest
    needs: BatchNeeds
    sources: Sequence[RecordSource]
    eval_sources: Sequence[RecordSource]
    config: StreamConfig
    steps_per_epoch: int
    fingerprint: str

    @property
    def sizes(self) -> Sequence[tuple[int, int]]:
        """Heights and widths of the training batches, the largest first."""
        return sorted(self.config.sizes, key=math.prod, reverse=True)

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        config = self.request.config
        return config.num_steps or max(1, math.ceil(config.num_epochs * self.steps_per_epoch))

    @property
    def palette(self) -> str | None:
        """Name of the classes and colours of its segmentations; None without, or if they differ."""
        names = {source.palette for source in self.sources if "segmentation" in source.fields}
        return names.pop() if len(names) == 1 else None

    def stream(self, mesh: Mesh, start_step: int) -> Stream:
        """Returns this process's training batches from a step on.

        Args:
          mesh: of the run.
          start_step: first step.
        """
        index, count = process_share(mesh, self.config.batch_size)
        return batches(
            self.sources,
            self.config,
            helpers=self.needs.helpers,
            start_step=start_step,
            process_index=index,
            process_count=count,
            num_workers=self.request.config.workers,
        )

    def eval_batches(self, mesh: Mesh, num_examples: int) -> list[dict[str, jax.Array]]:
        """Returns the fixed evaluation set on the devices, in batches of a microbatch's size.

        Nothing is dropped, cut at random or mirrored, and no map takes an image's place; the number
        of examples is rounded up to whole batches, or to one smaller batch that the mesh divides.

        Args:
          mesh: of the run.
          num_examples: wanted.
        """
        rows = self.config.batch_size // self.request.config.accumulation
        shards = mesh.shape["data"] * mesh.shape["fsdp"]
        size = min(rows, math.ceil(num_examples / shards) * shards)
        config = self._fixed(size)
        index, count = process_share(mesh, size)
        stream = batches(
            self.eval_sources,
            config,
            helpers=self.needs.helpers,
            stop_step=math.ceil(num_examples / size),
            process_index=index,
            process_count=count,
            prefetch=0,
        )
        with stream:
            return [global_batch(mesh, batch, size) for batch in stream]

    def one_of_each_size(self, mesh: Mesh) -> list[dict[str, jax.Array]]:
        """Returns a training batch of each of `sizes` on the devices.

        Args:
          mesh: of the run.
        """
        rows = self.config.batch_size
        index, count = process_share(mesh, rows)
        found = []
        for size in self.sizes:
            config = dataclasses.replace(self._fixed(rows), sizes=(size,))
            stream = batches(
                self.sources,
                config,
                helpers=self.needs.helpers,
                stop_step=1,
                process_index=index,
                process_count=count,
                prefetch=0,
            )
            with stream:
                found.append(global_batch(mesh, next(stream), rows))
        return found

    def examples(self, count: int) -> dict[str, Any]:
        """Returns the first examples of the evaluation set on the host, captions too if it has any.

        All processes get the same.

        Args:
          count: of the examples.
        """
        config = self._fixed(count)
        labels = _LABELS if all("captions" in item.fields for item in self.eval_sources) else ()
        keys = tuple(dict.fromkeys((*config.keys, *labels)))
        config = dataclasses.replace(config, keys=keys)
        with batches(
            self.eval_sources, config, helpers=self.needs.helpers, stop_step=1, prefetch=0
        ) as stream:
            return next(stream)

    def _fixed(self, batch_size: int) -> StreamConfig:
        keys = tuple(key for key in self.config.keys if key != "names")
        return dataclasses.replace(
            self.config,
            keys=keys,
            batch_size=batch_size,
            sizes=self.config.sizes[:1],
            weights=None,
            crop="centre",
            flip=0.0,
            caption="first",
            drop={},
            map_share=0.0,
            shuffle=True,
            seed=0,
        )


def open_data(request: TrainRequest, needs: BatchNeeds) -> RunData:
    """Returns the data of a run; reads manifests, no record.

    Args:
      request: of the run.
      needs: of its loss.

    Raises:
      TrainError: folders that cannot be used, and fields that they lack; lists all problems.
    """
    config = request.config
    drop = {name: float(config.drop_condition) for name in needs.conditions}
    drop["caption"] = config.drop_caption
    stream = request.stream((*needs.keys, "names"), drop)
    stream = dataclasses.replace(stream, maps=needs.maps, map_share=needs.map_share)
    problems = stream.problems()
    sources = [_open(item, request, stream, 0, problems) for item in request.data]
    held_out = request.eval_data or (request.data if SCENES in request.data else ())
    eval_sources = [_open(item, request, stream, 1, problems) for item in held_out] or sources
    if problems:
        raise TrainError(problems)
    plan = plan_of(sources, stream)
    digest = hashlib.sha256(plan.fingerprint.encode())
    for item in request.data:
        # Other shards may have as many records.
        content = SCENES.encode() if item == SCENES else (Path(item) / MANIFEST).read_bytes()
        digest.update(hashlib.sha256(content).digest())
    return RunData(
        request, needs, sources, eval_sources, stream, plan.steps_per_epoch, digest.hexdigest()
    )


def _open(
    item: str, request: TrainRequest, stream: StreamConfig, world: int, problems: list[str]
) -> Any:
    """Returns a source with the fields that the stream reads; None with a problem noted."""
    wanted = (*stream.required_fields, *stream.variables)
    # Shards without them show images alone.
    beside = (*_LABELS, *_SIZES, *stream.maps)
    try:
        if item == SCENES:
            known = Scenes().fields
            missing = [field for field in stream.required_fields if field not in known]
            if missing:
                raise ValueError(
                    f"scenes have no {', '.join(missing)}; use encode, not cached, for "
                    "--config.latents, .text and .exemplars"
                )
            height, width = request.sizes[0]
            names = (*wanted, *_LABELS, *stream.maps)
            fields = [field for field in dict.fromkeys(names) if field in known]
            return Scenes(
                seed=request.config.scenes_seed + world, size=(height, width), fields=fields
            )
        records = ShardedRecords(item)
        missing = [field for field in wanted if field not in records.fields]
        if missing:
            raise ValueError(
                f"{item} lacks the fields {', '.join(missing)}; it has "
                f"{', '.join(records.fields)}. Prepare it with the steps that make them "
                "(launch.prepare_data), or encode them in training (--config.latents, .text, "
                ".exemplars)"
            )
        found = [field for field in beside if field in records.fields]
        return ShardedRecords(item, tuple(dict.fromkeys((*wanted, *found))))
    except ValueError as error:
        if str(error) not in problems:
            problems.append(str(error))
        return None


def keys_of(choices: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the keys for latents and text, encoded in training or cached in the shards.

    Args:
      choices: "encode" or "cached" for `latents` and `text`.
    """
    latents = ("image",) if choices["latents"] == "encode" else ("latent_mean", "latent_logvar")
    text = ("input_ids",) if choices["text"] == "encode" else ("text_embeddings",)
    return (*latents, *text)
