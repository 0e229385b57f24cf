"""Pipelines over drawings, for tests of running them."""

from __future__ import annotations

from pathlib import Path

from input_pipeline.prepare.engine import Engine, StepReport, run_steps
from input_pipeline.prepare.masks import LabelMask
from input_pipeline.prepare.pipeline import Pipeline
from input_pipeline.prepare.resize import Resize
from input_pipeline.prepare.sketches import Edges
from input_pipeline.prepare.step import Step
from tests.input_pipeline.prepare.raw_records import Drawings


def build(folder: str) -> Pipeline:
    """Returns a pipeline of three steps and three shards."""
    source = Drawings()
    steps = (Resize(((64, 64), (64, 128)), source.fields), LabelMask(), Edges())
    return Pipeline(source, {"seed": 0}, steps, Path(folder) / "work", Path(folder) / "shards", 3)


def resized(folder: Path, *steps: Step, source: Drawings | None = None, **options) -> Pipeline:
    """Returns a pipeline of the step "image", some others, and three shards."""
    source = source or Drawings()
    chosen = (Resize(((64, 64),), source.fields), *steps)
    return Pipeline(source, {"seed": 0}, chosen, folder / "work", folder / "shards", 3, **options)


def run(pipeline: Pipeline, engine: Engine | None = None) -> list[StepReport]:
    """Returns the reports of a whole run in this process."""
    return list(run_steps(lambda: pipeline, engine or Engine()))


def made(pipeline: Pipeline) -> dict[str, int]:
    """Returns how many shards of each step a run makes."""
    return {report.step: report.shards_made for report in run(pipeline)}
