"""ADE20K as the Scene Parsing challenge of 2016 ships it: 150 classes, no captions."""

from __future__ import annotations

from pathlib import Path

from input_pipeline.readers.examples import LabelSet, joined
from input_pipeline.readers.label_maps import LabelMapReader
from input_pipeline.readers.layout import PHOTO_SUFFIXES, Layout
from input_pipeline.readers.pictures import ClassNumbers
from input_pipeline.schema import VOID

LABELS = LabelSet(
    ClassNumbers({0: VOID, **{n: n - 1 for n in range(1, 151)}}, "0 to 150, where 0 is other"),
    "ade20k",
)

_LAYOUT = """\
  ROOT/images/<split>/ADE_train_00000001.jpg
  ROOT/annotations/<split>/ADE_train_00000001.png      0 to 150, where 0 is other
  CAPTIONS                                             optional: {"ADE_train_00000001": ["..."]}
  <split> is training or validation"""


class Ade20kReader(LabelMapReader):
    """A record source: one record for each image with a label map, in the order of file names.

    What the data set calls other is void.

    Args:
      root: folder ADEChallengeData2016.
      split: "training" or "validation".
      captions: JSON file of captions by file stem; images without one are left out. None leaves
        all records without captions.
      class_captions: whether records without a caption get one that lists their classes, the
        largest first.
      name: of the data set; "ade20k-" and the split by default.

    Raises:
      LayoutError: files are missing, or are no such files; or no record is left.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "training",
        captions: str | Path | None = None,
        *,
        class_captions: bool = False,
        name: str | None = None,
    ) -> None:
        image_folder = Path(root) / "images" / split
        label_folder = Path(root) / "annotations" / split
        layout = Layout(name or f"ade20k-{split}", _LAYOUT)
        super().__init__(
            layout,
            LABELS,
            joined(image_folder, layout.stems(image_folder, PHOTO_SUFFIXES)),
            joined(label_folder, layout.stems(label_folder, (".png",))),
            captions,
            class_captions=class_captions,
        )
