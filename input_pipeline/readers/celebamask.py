"""CelebAMask-HQ: faces of 1024 x 1024 pixels whose parts are masks of 512 x 512, a file each."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from input_pipeline.palettes import palette
from input_pipeline.readers.examples import (
    PHOTO_FIELDS,
    class_caption,
    photo_record,
    place,
)
from input_pipeline.readers.layout import PHOTO_SUFFIXES, Layout, Tally, digest
from input_pipeline.readers.pictures import read_bytes, read_marked, stored_labels, stored_photo
from input_pipeline.schema import Record, RecordError

if TYPE_CHECKING:
    from jaxtyping import UInt8

# In the order of classes from 1 on, which is also that of painting: hair covers skin.
PARTS = (
    *("skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear"),
    *("mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth"),
)

_PALETTE = "celebamask"
_IMAGES_A_FOLDER = 2000
_LAYOUT = """\
  ROOT/CelebA-HQ-img/0.jpg                                   to 29999.jpg
  ROOT/CelebAMask-HQ-mask-anno/0/00000_skin.png              folder i holds images 2000 i and on
  CAPTIONS                                                   optional: {"0": ["..."]}"""


class CelebAMaskReader:
    """A record source: one record for each image with masks, in the order of their numbers.

    Args:
      root: folder CelebAMask-HQ.
      captions: JSON file of captions by file stem; images without one are left out. None leaves
        all records without captions.
      class_captions: whether records without a caption get one that lists their classes, the
        largest first.
      name: of the data set.

    Raises:
      LayoutError: files are missing, or are no such files; or no record is left.
    """

    def __init__(
        self,
        root: str | Path,
        captions: str | Path | None = None,
        *,
        class_captions: bool = False,
        name: str = "celebamask",
    ) -> None:
        self.name = name
        self.fields = (*PHOTO_FIELDS, "segmentation")
        self.palette = _PALETTE
        self._class_captions = class_captions
        self._image_folder = os.path.join(root, "CelebA-HQ-img")
        self._mask_folder = os.path.join(root, "CelebAMask-HQ-mask-anno")
        layout, tally = Layout(self.name, _LAYOUT), Tally()
        images = layout.stems(self._image_folder, PHOTO_SUFFIXES)
        parts = _listed_parts(self._mask_folder, layout)
        texts = layout.caption_lists(captions) if captions is not None else None
        layout.check()
        self._images: list[tuple[int, str, tuple[str, ...], tuple[str, ...]]] = []
        for stem, file_name in images.items():
            if not (stem.isascii() and stem.isdecimal()):
                tally.add("file name is no number", file_name)
            elif int(stem) not in parts:
                tally.add("no masks", file_name)
            elif texts is not None and not texts.get(stem) and not class_captions:
                tally.add("no caption", file_name)
            else:
                image_texts = tuple((texts or {}).get(stem, ()))
                self._images.append((int(stem), file_name, parts[int(stem)], image_texts))
        self._images.sort()
        layout.check_any(self._images, tally)
        self.left_out, self.left_out_examples = tally.counts, tally.examples
        self.contents = digest((number, texts) for number, _, _, texts in self._images)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Record:
        number, file_name, parts, captions = self._images[index]
        name = f"{number:05d}"
        path = os.path.join(self._image_folder, file_name)
        where = place(self.name, name, path)
        photo = stored_photo(read_bytes(path, where), where)
        record = photo_record(self.name, name, captions, photo)
        labels = self._merged_parts(number, parts)
        masks_at = place(self.name, name, _mask_path(self._mask_folder, number, "*"))
        record["segmentation"] = stored_labels(labels, photo.size, masks_at)
        if self._class_captions and not captions:
            record["captions"] = class_caption(labels, palette(_PALETTE))
        return record

    def _merged_parts(self, number: int, parts: tuple[str, ...]) -> UInt8[np.ndarray, "h w"]:
        """Returns the classes of an image's pixels; where parts overlap, the later one counts."""
        labels = np.zeros((0, 0), np.uint8)
        for part in parts:
            path = _mask_path(self._mask_folder, number, part)
            where = place(self.name, f"{number:05d}", path)
            marked = read_marked(read_bytes(path, where), where)
            if not labels.size:
                labels = np.zeros(marked.shape, np.uint8)
            if marked.shape != labels.shape:
                size, expected = (" x ".join(map(str, m.shape)) for m in (marked, labels))
                raise RecordError(
                    f"{where} has {size} pixels, expected {expected} as the image's other masks"
                )
            labels[marked] = 1 + PARTS.index(part)
        return labels


def _listed_parts(folder: str, layout: Layout) -> dict[int, tuple[str, ...]]:
    """Returns which parts of each image have a mask, in the order of `PARTS`."""
    found: dict[int, set[str]] = {}
    for subfolder in layout.folder_names(folder):
        for file_name in layout.file_names(os.path.join(folder, subfolder)):
            stem, suffix = os.path.splitext(file_name)
            digits, _, part = stem.partition("_")
            if suffix == ".png" and part in PARTS and digits.isascii() and digits.isdecimal():
                number = int(digits)
                if _mask_path("", number, part) == os.path.join("", subfolder, file_name):
                    found.setdefault(number, set()).add(part)
    # One tuple for all images with the same parts: they are few.
    combinations: dict[tuple[str, ...], tuple[str, ...]] = {}
    ordered = {n: tuple(p for p in PARTS if p in parts) for n, parts in found.items()}
    return {n: combinations.setdefault(parts, parts) for n, parts in ordered.items()}


def _mask_path(folder: str, number: int, part: str) -> str:
    return os.path.join(folder, str(number // _IMAGES_A_FOLDER), f"{number:05d}_{part}.png")
