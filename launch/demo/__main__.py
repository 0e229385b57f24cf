r"""A web page that composes images by depth and exemplars, and draws maps and images by FG-DM.

    python -m launch.demo
    python -m launch.demo --checkpoint=cnc_v1.ckpt,clip-vit-large-patch14/ --dtype=bfloat16 \
        --fgdm_checkpoint=segmentation=fgdm_seg.pth,sd-v1-4.ckpt,control_sd15_seg.pth

It answers this machine alone (127.0.0.1) and calls no other. docs/demo.md tells more.
"""

from __future__ import annotations

import sys
from pathlib import Path

from absl import flags

from launch.command import command, run
from launch.demo.settings import Limits, Settings
from launch.setting_checks import SIZE_MULTIPLE

_DTYPES = ("float32", "bfloat16", "float16")

_CHECKPOINT = flags.DEFINE_string(
    *("checkpoint", "scenes"),
    "Model of the page Compose; several, joined by commas, complete it. scenes-three composes "
    "three layers and cannot draw: give --fgdm_checkpoint=scenes beside it.",
)
_FGDM_CHECKPOINT = flags.DEFINE_string(
    "fgdm_checkpoint", "", "Model of the page Draw; that of Compose unless given."
)
_GRAPH = flags.DEFINE_string(
    "graph", "", "A graph of factors of your own for the page Draw, as --config.graph has it."
)
_DEPTH_ESTIMATOR = flags.DEFINE_string(
    "depth_estimator", "", "Folder of a depth estimator (DPT), so that photos can be given."
)
_LOCAL_CONDITION = flags.DEFINE_enum(
    "local_condition", "depth", ("depth", "canny"), "What the local fuser was trained with."
)
_PORT = flags.DEFINE_integer("port", 7860, "Port of 127.0.0.1.", 1, 65535)
_WORKDIR = flags.DEFINE_string("workdir", "outputs/demo", "Folder for all that the page writes.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", _DTYPES, "Half precision is for GPUs and TPUs.")
_SIZE = flags.DEFINE_integer(
    "size", 0, "Height and width at first; 0 takes what suits the model.", lower_bound=0
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 4, "Images sampled at once, at most.", 1)
_MAX_SIZE = flags.DEFINE_integer("max_size", 1024, "Largest height and width.", 64, 8192)
for _name in ("size", "max_size"):
    # The page would start, and refuse every click.
    flags.register_validator(
        *(_name, lambda pixels: pixels % SIZE_MULTIPLE == 0),
        message=f"expected a multiple of {SIZE_MULTIPLE}",
    )
_MAX_WAITING = flags.DEFINE_integer("max_waiting", 8, "Requests that wait at once.", 0)
_MAX_UPLOAD_MB = flags.DEFINE_integer("max_upload_mb", 20, "Largest file, in megabytes.", 1)
_MAX_MEGAPIXELS = flags.DEFINE_integer("max_megapixels", 25, "Largest picture given.", 1, 100)
_KEEP = flags.DEFINE_integer("keep", 40, "Requests whose folders stay in workdir.", 12)


def main() -> None:
    """Runs the command."""
    with command():
        # Imported here, so that --help and a wrong flag answer at once.
        from launch.demo.server import serve

        limits = Limits(
            max_size=_MAX_SIZE.value,
            batch_size=_BATCH_SIZE.value,
            max_waiting=_MAX_WAITING.value,
            max_upload_bytes=_MAX_UPLOAD_MB.value * 10**6,
            max_pixels=_MAX_MEGAPIXELS.value * 10**6,
            kept_requests=_KEEP.value,
        )
        settings = Settings(
            checkpoint=_CHECKPOINT.value,
            fgdm_checkpoint=_FGDM_CHECKPOINT.value or _CHECKPOINT.value,
            graph=_GRAPH.value,
            depth_estimator=_DEPTH_ESTIMATOR.value,
            local_condition=_LOCAL_CONDITION.value,
            workdir=Path(_WORKDIR.value).resolve(),
            dtype=_DTYPE.value,
            size=_SIZE.value,
            limits=limits,
        )
        serve(settings, _PORT.value, lambda address: print(f"open {address}", file=sys.stderr))


if __name__ == "__main__":
    run(main)
