"""How good weights are that were trained on the scenes, on scenes that no training sees.

    python -m benchmarks.scenes_quality --checkpoint=scenes --output=outputs/quality
    python -m benchmarks.scenes_quality --checkpoint= --output=outputs/bounds   # no model

Writes quality.json, a plot (with matplotlib), and contact sheets with the verdict on each of the
first cases. What a checkpoint lacks is left out, and said. docs/quality.md tells what is measured.
"""

from __future__ import annotations

import sys
from pathlib import Path

import absl.logging
from absl import app, flags

_CHECKPOINT = flags.DEFINE_list(
    "checkpoint", ["scenes"], "Checkpoints that complete one another; none for the bounds alone."
)
_OUTPUT = flags.DEFINE_string("output", "outputs/quality", "Folder to write to.")
_ONLY = flags.DEFINE_list("only", [], "Measures, or groups of them: prior, compose, factors.")
_SCENES = flags.DEFINE_integer("scenes", 512, "Cases of each measure.", lower_bound=2)
_WORLD = flags.DEFINE_integer("world", 1, "Seed of the scenes; training sees 0.", lower_bound=0)
_BATCH = flags.DEFINE_integer("batch_size", 32, "Pictures at once.", lower_bound=1)
_STEPS = flags.DEFINE_integer("num_steps", 20, "Denoising steps.", lower_bound=1)
_GUIDANCE = flags.DEFINE_float("guidance_scale", 3.0, "Of the text; 1 leaves guidance out.")
_IMAGE_GUIDANCE = flags.DEFINE_float(
    "image_guidance_scale", 2.0, "Of depth and exemplars, where looks are measured; 0 for none."
)
_STRENGTHS = flags.DEFINE_list(
    "strengths", ["0", "0.5", "1"], "Of the front exemplar; the figures are those of the last."
)
_EXEMPLAR = flags.DEFINE_enum(
    "exemplar", "image", ["image", "foreground"], "What of the donor is the front exemplar."
)
_DRAWS = flags.DEFINE_integer("draws", 10, "Segmentations of each prompt.", lower_bound=1)
_CONTROLS = flags.DEFINE_boolean("controls", True, "Show swapped layers and text alone, too.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the noise.", lower_bound=0)


def main(arguments: list[str]) -> None:
    """Measures, and writes the report."""
    del arguments
    absl.logging.set_verbosity(absl.logging.WARNING)
    from benchmarks.scenes_quality.measures import chosen, take
    from benchmarks.scenes_quality.report import write_report
    from benchmarks.scenes_quality.settings import Settings
    from benchmarks.scenes_quality.studio import Studio
    from input_pipeline.scenes.judge import Judge

    try:
        names = chosen(_ONLY.value)
        settings = Settings(
            scenes=_SCENES.value,
            world=_WORLD.value,
            strengths=_numbers(_STRENGTHS.value),
            exemplar="foreground" if _EXEMPLAR.value == "foreground" else "image",
            image_guidance_scale=_IMAGE_GUIDANCE.value,
            draws=_DRAWS.value,
            controls=_CONTROLS.value,
        )
        checkpoints = [item for item in _CHECKPOINT.value if item]
        studio = None
        if checkpoints:
            studio = Studio.open(
                checkpoints,
                batch_size=_BATCH.value,
                num_steps=_STEPS.value,
                guidance_scale=_GUIDANCE.value,
                seed=_SEED.value,
            )
    except ValueError as error:
        sys.exit(f"error: {error}")
    print("the judge looks at scenes of its own ...", file=sys.stderr)
    taken = take(names, studio, Judge.of_scenes(), settings)
    write_report(Path(_OUTPUT.value), taken, checkpoints, studio, settings)
    print(f"wrote {_OUTPUT.value}/quality.json")


def _numbers(items: list[str]) -> tuple[float, ...]:
    try:
        return tuple(float(item) for item in items) or (1.0,)
    except ValueError as error:
        raise ValueError(
            f"strengths: {','.join(items)!r} must be numbers joined by commas, such as 0,0.5,1"
        ) from error


if __name__ == "__main__":
    app.run(main)
