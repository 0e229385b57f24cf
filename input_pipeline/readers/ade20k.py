"""ADE20K as the Scene Parsing challenge of 2016 ships it: 150 classes, no captions."""

from __future__ import annotations

from pathlib import Path

from input_pipeline.readers.examples import (
    PHOTO_FIELDS,
    LabelSet,
    joined,
    listed_examples,
    read_example,
)
from input_pipeline.readers.layout import PHOTO_SUFFIXES, Layout, Tally, digest
from input_pipeline.readers.pictures import ClassNumbers
from input_pipeline.schema import VOID, Record

LABELS = LabelSet(
    ClassNumbers({0: VOID, **{n: n - 1 for n in range(1, 151)}}, "0 to 150, where 0 is other"),
    "ade20k",
)

_LAYOUT = """\
  ROOT/images/<split>/ADE_train_00000001.jpg
  ROOT/annotations/<split>/ADE_train_00000001.png      0 to 150, where 0 is other
  CAPTIONS                                             optional: {"ADE_train_00000001": ["..."]}
  <split> is training or validation"""


class Ade20kReader:
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
        self.name = name or f"ade20k-{split}"
        self.fields = (*PHOTO_FIELDS, "segmentation")
        self.palette = LABELS.palette
        self._class_captions = class_captions
        image_folder = Path(root) / "images" / split
        label_folder = Path(root) / "annotations" / split
        layout, tally = Layout(self.name, _LAYOUT), Tally()
        images = joined(image_folder, layout.stems(image_folder, PHOTO_SUFFIXES))
        labels = joined(label_folder, layout.stems(label_folder, (".png",)))
        texts = layout.caption_lists(captions) if captions is not None else None
        layout.check()
        self._examples = tuple(
            listed_examples(images, labels, texts, tally, class_captions=class_captions)
        )
        layout.check_any(self._examples, tally)
        self.left_out, self.left_out_examples = tally.counts, tally.examples
        self.contents = digest((example.id, example.captions) for example in self._examples)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Record:
        return read_example(
            self.name, self._examples[index], LABELS, class_captions=self._class_captions
        )
