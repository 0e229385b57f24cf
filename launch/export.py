"""A converted directory or a training run -> PyTorch's layouts.

python -m launch.export --checkpoint=converted/cnc --layout=ldm --output=cnc.safetensors
python -m launch.export --checkpoint=converted/sd --layout=diffusers --output=sd-folder
python -m launch.export --checkpoint=runs/local --layout=ldm --output=local.safetensors
python -m launch.export --checkpoint=runs/seg --layout=ldm --output=seg.ckpt --variable=segmentation
python -m launch.export --checkpoint=runs/seg,runs/depth --layout=diffusers --output=adapters
python -m launch.export --checkpoint=runs/local/checkpoints/20000 --layout=ldm --output=local.ckpt
"""

from __future__ import annotations

import sys

from absl import flags

from launch.command import command, run

_CHECKPOINT = flags.DEFINE_list(
    "checkpoint",
    None,
    "Converted directories, folders of runs (their newest checkpoints), or RUN/checkpoints/STEP; "
    "later ones add what earlier ones lack.",
    required=True,
)
_LAYOUT = flags.DEFINE_enum("layout", None, ["ldm", "diffusers"], "Layout to write.", required=True)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "File (ldm: .safetensors, or .ckpt for a torch file) or folder (diffusers).",
    required=True,
)
_VARIABLE = flags.DEFINE_string(
    "variable",
    None,
    "Of FG-DM, whose adapter goes by upstream's name, which says none; all others by their own.",
)
_ONLY = flags.DEFINE_list("only", [], "Components to write, such as adapter_depth; all if empty.")
_DTYPE = flags.DEFINE_enum(
    "dtype", None, ["float32", "float16", "bfloat16"], "Type to write; that of the checkpoint."
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the output if it is there.")


def main() -> None:
    """Runs the command."""
    with command():
        from launch.components import components_of
        from sd_jax.convert.cast import cast_weights
        from sd_jax.convert.export import export_diffusers, export_ldm, untold_by_shapes
        from sd_jax.convert.select import join_weights, select_components
        from sd_jax.convert.weights import weights_of_converted
        from sd_jax.training.trained import is_directory, open_directory

        problems = [
            f"{path}: no converted directory and no training run; make one with "
            f"launch.convert --source={path}"
            for path in _CHECKPOINT.value
            if not is_directory(path)
        ]
        if problems:
            raise ValueError("\n".join(problems))
        components = components_of(_VARIABLE.value)
        opened = [open_directory(path, components) for path in _CHECKPOINT.value]
        weights = join_weights([weights_of_converted(item) for item in opened])
        if _ONLY.value:
            weights = select_components(weights, _ONLY.value)
        if _DTYPE.value is not None:
            weights = cast_weights(weights, _DTYPE.value)
        write = export_ldm if _LAYOUT.value == "ldm" else export_diffusers
        write(weights, components, _OUTPUT.value, overwrite=_OVERWRITE.value)
        if _LAYOUT.value == "ldm" and not _OUTPUT.value.endswith(".safetensors"):
            for name in untold_by_shapes(weights, components):
                print(
                    "note: a torch file does not tell the attention heads, norm groups, blocks and "
                    f"latents of parents of {name}, which are not the usual ones; a .safetensors "
                    "file does",
                    file=sys.stderr,
                )
        print(f"wrote {_OUTPUT.value}: {', '.join(weights.configs)}", file=sys.stderr)


if __name__ == "__main__":
    run(main)
