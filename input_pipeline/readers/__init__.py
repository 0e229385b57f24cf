"""Readers of raw data sets: each is a record source that leaves the files where they are.

A record source has `name`, `fields`, `palette`, a length and records by index, the same for the
same index every time. Readers also tell what they leave out, in `left_out` and, with a few
examples, in `left_out_examples`; `contents` tells one choice of records and captions from another.
"""

from input_pipeline.readers.ade20k import Ade20kReader
from input_pipeline.readers.celebamask import CelebAMaskReader
from input_pipeline.readers.cityscapes import CityscapesReader
from input_pipeline.readers.coco import CocoReader
from input_pipeline.readers.folder import FolderReader
from input_pipeline.readers.layout import LayoutError
from input_pipeline.readers.pickapic import PickAPicReader
from input_pipeline.readers.upstream import UpstreamReader
from input_pipeline.readers.wholebody import WholeBodyReader

__all__ = [
    "Ade20kReader",
    "CelebAMaskReader",
    "CityscapesReader",
    "CocoReader",
    "FolderReader",
    "LayoutError",
    "PickAPicReader",
    "UpstreamReader",
    "WholeBodyReader",
]
