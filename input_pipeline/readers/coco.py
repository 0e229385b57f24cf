"""COCO 2017: images, five captions each, and COCO-Stuff's labels of every pixel."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from input_pipeline.readers.examples import (
    PHOTO_FIELDS,
    Example,
    LabelSet,
    read_example,
)
from input_pipeline.readers.layout import Layout, Tally, clean_captions, digest
from input_pipeline.readers.pictures import ClassNumbers
from input_pipeline.schema import VOID, Record

LABELS = LabelSet(
    ClassNumbers({**{n: n for n in range(182)}, 255: VOID}, "0 to 181, or 255 for void"), "coco"
)

_LAYOUT = """\
  CAPTIONS                annotations/captions_<split>.json: {"images": [{"id", "file_name"}],
                          "annotations": [{"image_id", "caption"}]}
  IMAGES/<file_name>      images of the split, as <split>/000000000009.jpg
  LABELS/<stem>.png       optional, COCO-Stuff's stuffthingmaps of the split: 0 to 181, 255 void"""


class CocoReader:
    """A record source: one record for each image that has a caption, in the order of file names.

    Args:
      captions: annotations/captions_train2017.json, or of another split.
      images: folder of the split's images.
      labels: folder of the split's stuffthingmaps; None leaves the field `segmentation` out.
      name: of the data set; "coco-" and the name of the folder of images by default.

    Raises:
      LayoutError: files are missing, or are no such files; or no record is left.
    """

    def __init__(
        self,
        captions: str | Path,
        images: str | Path,
        labels: str | Path | None = None,
        name: str | None = None,
    ) -> None:
        self.name = name or f"coco-{Path(images).name}"
        self.fields = PHOTO_FIELDS if labels is None else (*PHOTO_FIELDS, "segmentation")
        self.palette = None if labels is None else LABELS.palette
        layout = Layout(self.name, _LAYOUT)
        content = layout.json(captions, ("images", "annotations"))
        image_names = layout.file_names(images)
        label_names = layout.file_names(labels) if labels is not None else frozenset()
        listed = _listed_images(content, layout) if content else {}
        texts = _captions(content, layout) if content else {}
        layout.check()

        tally = Tally()
        for file_name in sorted(image_names - set(listed.values())):
            tally.add("image not in the captions file", file_name)
        chosen: dict[int, Example] = {}
        for number, file_name in sorted(listed.items(), key=lambda item: (item[1], item[0])):
            stem = os.path.splitext(file_name)[0]
            image_captions = tuple(clean_captions(texts.get(number, [])))
            if file_name not in image_names:
                tally.add("image file missing", file_name)
            elif not image_captions:
                tally.add("no caption", file_name)
            elif labels is not None and f"{stem}.png" not in label_names:
                tally.add("label map missing", f"{stem}.png")
            else:
                chosen[number] = Example(
                    stem,
                    image_captions,
                    os.path.join(images, file_name),
                    os.path.join(labels, f"{stem}.png") if labels is not None else "",
                )
        layout.check_any(chosen, tally)
        self.left_out, self.left_out_examples = tally.counts, tally.examples
        self.contents = digest((example.id, example.captions) for example in chosen.values())
        self.image_ids = tuple(chosen)
        """COCO's number of each record's image, which other annotations refer to."""
        self._examples = tuple(chosen.values())

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Record:
        return read_example(
            self.name, self._examples[index], LABELS if self.palette is not None else None
        )


def _listed_images(content: Mapping[str, Any], layout: Layout) -> dict[int, str]:
    """Returns the file names of images by their number."""
    found: dict[int, str] = {}
    for index, image in enumerate(content["images"]):
        number, file_name = entry(image, "id", int), entry(image, "file_name", str)
        if number is None or file_name is None:
            layout.note(f'images[{index}] of the captions file has no number "id" or "file_name"')
        elif number in found and found[number] != file_name:
            layout.note(f"images[{index}] of the captions file has the id {number} of another one")
        else:
            found[number] = file_name
    if len(set(found.values())) < len(found):
        layout.note("two images of the captions file have one file name")
    return found


def _captions(content: Mapping[str, Any], layout: Layout) -> dict[int, list[str]]:
    """Returns the captions of images by their number, in the order of the file."""
    found: dict[int, list[str]] = {}
    for index, annotation in enumerate(content["annotations"]):
        number, caption = entry(annotation, "image_id", int), entry(annotation, "caption", str)
        if number is None or caption is None:
            layout.note(f'annotations[{index}] of the captions file lacks "image_id" or "caption"')
        else:
            found.setdefault(number, []).append(caption)
    return found


def entry(item: Any, key: str, kind: type) -> Any:
    """Returns an entry of a JSON object, or None if it is missing or of another type."""
    value = item.get(key) if isinstance(item, Mapping) else None
    return value if isinstance(value, kind) and not isinstance(value, bool) else None
