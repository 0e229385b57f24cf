"""What readers share whose data set is two trees of files: images and their label maps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from input_pipeline.readers.examples import PHOTO_FIELDS, Example, LabelSet, read_example
from input_pipeline.readers.layout import Layout, Tally, digest
from input_pipeline.schema import Record


class LabelMapReader:
    """A record source: one record for each image with a label map, in the order of their ids.

    Args:
      layout: of the data set, which has its name.
      label_set: of its label maps.
      images: paths by id.
      labels: paths of label maps by id.
      captions: JSON file of captions by id; images without one are left out. None leaves all
        records without captions.
      class_captions: whether records without a caption get one that lists their classes, the
        largest first.

    Raises:
      LayoutError: files are missing, or are no such files; or no record is left.
    """

    def __init__(
        self,
        layout: Layout,
        label_set: LabelSet,
        images: Mapping[str, str],
        labels: Mapping[str, str],
        captions: str | Path | None,
        *,
        class_captions: bool,
    ) -> None:
        self.name = layout.name
        self.fields = (*PHOTO_FIELDS, "segmentation")
        self.palette = label_set.palette
        self._label_set, self._class_captions = label_set, class_captions
        texts = layout.caption_lists(captions) if captions is not None else None
        layout.check()
        tally = Tally()
        self._examples = tuple(
            _listed_examples(images, labels, texts, tally, class_captions=class_captions)
        )
        layout.check_any(self._examples, tally)
        self.left_out, self.left_out_examples = tally.counts, tally.examples
        self.contents = digest((example.id, example.captions) for example in self._examples)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Record:
        return read_example(
            self.name, self._examples[index], self._label_set, class_captions=self._class_captions
        )


def _listed_examples(
    images: Mapping[str, str],
    labels: Mapping[str, str],
    captions: Mapping[str, list[str]] | None,
    tally: Tally,
    *,
    class_captions: bool,
) -> list[Example]:
    """Returns the examples of a data set that is told by its files alone, sorted by id.

    Args:
      images: paths by id.
      labels: paths of label maps by id.
      captions: by id; None if there are none at all.
      tally: counts what is left out.
      class_captions: whether an example without captions is kept, as it gets one from its labels.
    """
    examples = []
    for name in sorted(images.keys() | labels.keys()):
        if name not in images:
            tally.add("image file missing", name)
        elif name not in labels:
            tally.add("label map missing", name)
        elif captions is not None and not captions.get(name) and not class_captions:
            tally.add("no caption", name)
        else:
            texts = tuple((captions or {}).get(name, ()))
            examples.append(Example(name, texts, images[name], labels[name]))
    return examples
