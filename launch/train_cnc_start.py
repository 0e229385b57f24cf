"""Where a run of Compose and Conquer starts: checkpoints -> WORKDIR/model, with what is new."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from cnc_jax.convert import COMPONENTS
from cnc_jax.load import CnCConfig
from cnc_jax.losses import STAGES
from cnc_jax.surgery import (
    Operation,
    extend_local,
    init_global,
    init_local,
    init_local_fromuni,
    integrate,
)
from launch.train_request import TrainError, TrainRequest
from sd_jax.convert.store import save_model
from sd_jax.load import Opened, open_checkpoints
from sd_jax.model import Model
from sd_jax.training.partition import merge_params, split_params
from sd_jax.training.run_folder import RunFolder


@dataclasses.dataclass(frozen=True)
class Start:
    """A starting point, checked, of which no weight has been read.

    Attributes:
      request: of the run.
      opened: the checkpoints, completing one another.
      surgery: what is done to them: a function of `cnc_jax.surgery`, or "none".
    """

    request: TrainRequest
    opened: Opened
    surgery: str

    def write(self, folder: Path) -> str:
        """Writes the starting point as a converted directory; returns in words what was done.

        Args:
          folder: to make, or to replace.
        """
        config = self.request.config
        operation = self._operate()
        model = operation.model
        trainable, frozen = split_params(model.params, STAGES[config.stage].trainable)
        # What is trained is float32 from the start, so that a run's files have one type.
        trainable = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), trainable)
        save_model(
            merge_params(trainable, frozen),
            {name: getattr(model.config, name) for name in model.params},
            folder,
            model.config.schedule,
            tokenizer=self.opened.tokenizer,
            overwrite=True,
        )
        names = ", ".join(Path(item).name or item for item in self.request.init)
        if self.surgery == "none":
            kept = ", ".join(trainable)
            return f"starts from {names}; {kept} as it is there, trained further"
        return (
            f"starts from {names} by {self.surgery}: {len(operation.copied)} tensors copied, "
            f"{len(operation.fresh)} new (seed {config.seed})"
        )

    def _operate(self) -> Operation:
        config = self.request.config
        layers, seed = config.num_layers, config.seed
        if self.surgery == "integrate":
            return integrate(*(self._load([item]) for item in _local_first(self.request.init)))
        model = self.opened.load(CnCConfig)
        if self.surgery == "init_local":
            return init_local(model, num_layers=layers, seed=seed)
        if self.surgery == "init_local_fromuni":
            return init_local_fromuni(
                model, num_layers=layers, depth_streams=config.depth_streams, seed=seed
            )
        if self.surgery == "extend_local":
            return extend_local(model, num_layers=layers)
        if self.surgery == "init_global":
            return init_global(
                model, num_layers=layers, hidden_multiple=config.hidden_multiple, seed=seed
            )
        return Operation(model, (), ())

    def _load(self, paths: Sequence[str]) -> Model:
        return _open(self.request, paths).load(CnCConfig)


def plan_start(request: TrainRequest) -> Start:
    """Returns the starting point of a run; reads sizes, no weights.

    Args:
      request: of the run.

    Raises:
      TrainError: the checkpoints cannot be used, or lack what the stage needs.
    """
    opened = _open(request, request.init)
    stage = request.config.stage
    surgery = _surgery(request, opened, stage)
    names = set(opened.configs)
    names |= {"init_local": {"local_fuser"}, "init_global": {"global_fuser"}}.get(surgery, set())
    needed = [*STAGES[stage].components, *encoders(request)]
    missing = [name for name in needed if name not in names]
    if missing:
        raise TrainError(
            [
                f"init: {', '.join(request.init)} lack {', '.join(missing)}, which stage {stage} "
                f"needs; they hold {', '.join(sorted(opened.configs)) or 'nothing'}. Name further "
                "checkpoints that have them, joined by commas"
            ]
        )
    local, layers = opened.configs.get("local_fuser"), request.config.num_layers
    is_trained = stage in ("local", "layers") and surgery == "none"
    if is_trained and local is not None and local.num_layers != layers:
        remedy = (
            "leave the fuser out of init for a new one, or add layers to one of two in stage layers"
            if stage == "local"
            else "start from a fuser of two layers or more, and of no more than num_layers"
        )
        raise TrainError(
            [
                f"num_layers is {layers}, but the local fuser of init has {local.num_layers}; set "
                f"num_layers to that, or {remedy}"
            ]
        )
    return Start(request, opened, surgery)


def _surgery(request: TrainRequest, opened: Opened, stage: str) -> str:
    local, layers = opened.configs.get("local_fuser"), request.config.num_layers
    if stage == "local" and local is None:
        return "init_local"
    # Uni-ControlNet's local adapter has one stem for all its conditions.
    if stage == "local" and local is not None and local.num_layers == 1 < layers:
        return "init_local_fromuni"
    if stage == "layers" and local is not None and 1 < local.num_layers < layers:
        return "extend_local"
    if stage == "global" and "global_fuser" not in opened.configs:
        return "init_global"
    if stage in ("joint", "beside") and len(request.init) == 2:
        parts = [set(_open(request, [item]).configs) for item in _local_first(request.init)]
        if "local_fuser" in parts[0] and {"global_fuser", "unet"} <= parts[1]:
            return "integrate"
    return "none"


def _local_first(init: Sequence[str]) -> list[str]:
    """Returns the two checkpoints of a stage of both fusers with that of the local fuser first.

    Runs tell which stage they were; other checkpoints stand in that order.
    """
    stages = [(RunFolder(Path(item)).settings() or {}).get("stage") for item in init]
    return list(reversed(init)) if stages == ["global", "local"] else list(init)


def encoders(request: TrainRequest) -> list[str]:
    """Returns the components that turn a batch into latents, text and exemplars.

    Args:
      request: of the run.
    """
    config = request.config
    names = []
    if config.latents == "encode":
        names.append("vae")
    if config.text == "encode":
        names.append("text_encoder")
    if STAGES[config.stage].has_exemplars and config.exemplars == "encode":
        names.append("image_encoder")
    return names


def _open(request: TrainRequest, paths: Sequence[str]) -> Opened:
    config = request.config
    return open_checkpoints(
        paths, COMPONENTS, num_heads=config.num_heads or None, use_ema=config.use_ema
    )
