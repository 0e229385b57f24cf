"""Batches from record sources, in an order that is a function of (seed, step) alone."""

from input_pipeline.stream.buckets import bucket_sizes
from input_pipeline.stream.config import CNC_DROP, TEXT_KEYS, VARIABLES, StreamConfig
from input_pipeline.stream.helpers import Helpers
from input_pipeline.stream.plan import Plan, Row, make_plan
from input_pipeline.stream.stream import Stream, batches, plan_of

__all__ = [
    "CNC_DROP",
    "TEXT_KEYS",
    "VARIABLES",
    "Helpers",
    "Plan",
    "Row",
    "Stream",
    "StreamConfig",
    "batches",
    "bucket_sizes",
    "make_plan",
    "plan_of",
]
