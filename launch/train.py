r"""Training, on one device or many, that goes on where it was stopped.

python -m launch.train --config=configs/cnc.py:stage=local --workdir=runs/local \
    --config.init=uni.ckpt --config.data=shards/coco

configs/cnc.py trains Compose and Conquer, configs/fgdm.py FG-DM, configs/prior.py a Stable
Diffusion from nothing; --config=FILE --help shows the settings of each.
"""

from __future__ import annotations

import os

from absl import flags
from ml_collections import config_flags

from launch.command import command, run

_CONFIG = config_flags.DEFINE_config_file("config", "configs/cnc.py", "What to train.")
_WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the run; one with a run goes on with it.")

_MEMORY = (
    "use --config.remat=layers, a larger --config.accumulation, --config.frozen_dtype=bfloat16, "
    "--config.optimizer=adamw8bit or, on several devices, --config.fsdp"
)


def main() -> None:
    """Runs the command; the exit status is 75 if the run was stopped and can go on."""
    with command(out_of_memory=_MEMORY):
        from launch.processes import start_processes
        from launch.training import train
        from sd_jax.training.signals import EXIT_STOPPED

        if _CONFIG.value.deterministic:
            # XLA reads it when the devices are first asked for.
            flags_of_xla = os.environ.get("XLA_FLAGS", "")
            os.environ["XLA_FLAGS"] = f"{flags_of_xla} --xla_gpu_deterministic_ops=true".strip()
        start_processes(_CONFIG.value.distributed)
        is_done = train(_CONFIG.value, _WORKDIR.value)
    if not is_done:
        raise SystemExit(EXIT_STOPPED)


if __name__ == "__main__":
    run(main, settings="configs.cnc")
