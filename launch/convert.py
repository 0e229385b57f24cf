"""Any checkpoint layout -> a converted directory.

python -m launch.convert --source=cnc_v1.ckpt,clip-vit-large-patch14/ --output=converted/cnc
python -m launch.convert --source=segmentation=fgdm_seg.pth,sd-v1-4.ckpt --output=converted/fgdm
python -m launch.convert --source=sd15.safetensors --surgery=init_local --output=converted/start
"""

from __future__ import annotations

import sys
from typing import Any

from absl import flags

from launch.command import command, run

_SOURCE = flags.DEFINE_list(
    "source",
    None,
    "Checkpoint files or folders; later ones add what earlier ones lack. VARIABLE=FILE for an "
    "adapter of upstream's, which is segmentation's unless it is said.",
    required=True,
)
_OUTPUT = flags.DEFINE_string("output", None, "Directory to make.", required=True)
_LAYOUT = flags.DEFINE_enum(
    "layout", None, ["ldm", "diffusers"], "Layout of the sources; detected unless given."
)
_SURGERY = flags.DEFINE_enum(
    "surgery",
    None,
    ["init_local", "init_local_fromuni", "extend_local", "init_global", "integrate"],
    "Make a starting point for training instead (integrate takes a local and a global checkpoint).",
)
_DEPTH_STREAMS = flags.DEFINE_enum(
    "depth_streams", "uni", ["uni", "fresh"], "Start of the depth stems in init_local_fromuni."
)
_NUM_LAYERS = flags.DEFINE_integer(
    "num_layers", None, "Layers of the fuser: 2, and 3 for extend_local, unless given.", 1
)
_NUM_HEADS = flags.DEFINE_integer("num_heads", None, "Attention heads where no config tells them.")
_USE_EMA = flags.DEFINE_bool("use_ema", False, "Take the UNet's averaged weights.")
_SEED = flags.DEFINE_integer("seed", 0, "Of new weights.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the output if it is there.")


def main() -> None:
    """Runs the command."""
    with command():
        from launch.converting import ConvertRequest, convert

        # The flags have checked that these are among the known names.
        layout: Any = _LAYOUT.value
        surgery: Any = _SURGERY.value
        request = ConvertRequest(
            sources=_SOURCE.value,
            output=_OUTPUT.value,
            layout=layout,
            surgery=surgery,
            depth_streams=_DEPTH_STREAMS.value,
            num_layers=_NUM_LAYERS.value,
            num_heads=_NUM_HEADS.value,
            use_ema=_USE_EMA.value,
            seed=_SEED.value,
            overwrite=_OVERWRITE.value,
        )
        print(convert(request), file=sys.stderr)


if __name__ == "__main__":
    run(main)
