"""A raw data set of a few pictures, and pipelines over it."""

from __future__ import annotations

from pathlib import Path

import pytest

from input_pipeline.prepare.masks import LabelMask
from input_pipeline.prepare.pipeline import Pipeline
from input_pipeline.prepare.resize import Resize
from input_pipeline.prepare.sketches import Edges
from input_pipeline.prepare.step import Step
from tests.input_pipeline.prepare.raw_records import Drawings


@pytest.fixture
def pipeline_in():
    """Returns a function that makes a pipeline: folder, steps -> Pipeline."""

    def make(folder: Path, *steps: Step, source: Drawings | None = None, **options) -> Pipeline:
        source = Drawings() if source is None else source
        chosen = steps or (Resize(((64, 64), (64, 128)), source.fields), LabelMask(), Edges())
        return Pipeline(
            source, {"seed": 0}, tuple(chosen), folder / "work", folder / "shards", 3, **options
        )

    return make
