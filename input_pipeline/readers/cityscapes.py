"""Cityscapes: streets of German cities with fine labels, of which 19 classes are trained on."""

from __future__ import annotations

from pathlib import Path

from input_pipeline.readers.examples import LabelSet
from input_pipeline.readers.label_maps import LabelMapReader
from input_pipeline.readers.layout import Layout
from input_pipeline.readers.pictures import ClassNumbers
from input_pipeline.schema import VOID

# The data set's ids of the classes road, sidewalk, ... bicycle.
_TRAINED_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
# Later versions of the data set's scripts number kinds of lane lines from 34.
_VOID_IDS = (*range(46), 255)
LABELS = LabelSet(
    ClassNumbers(
        {
            **dict.fromkeys(_VOID_IDS, VOID),
            **{number: label for label, number in enumerate(_TRAINED_IDS)},
        },
        "ids of the data set, 0 to 33",
    ),
    "cityscapes",
)

_PHOTO_END = "_leftImg8bit.png"
_LABELS_END = "_gtFine_labelIds.png"
_LAYOUT = f"""\
  ROOT/leftImg8bit/<split>/<city>/<city>_000000_000019{_PHOTO_END}
  ROOT/gtFine/<split>/<city>/<city>_000000_000019{_LABELS_END}
  CAPTIONS           optional: {{"<city>_000000_000019": ["..."]}}
  <split> is train or val; those of test have no labels"""


class CityscapesReader(LabelMapReader):
    """A record source: one record for each image with a label map, in the order of file names.

    All but the 19 classes that models are trained on are void.

    Args:
      root: folder that holds leftImg8bit and gtFine.
      split: "train" or "val".
      captions: JSON file of captions by city and two numbers; images without one are left out.
        None leaves all records without captions.
      class_captions: whether records without a caption get one that lists their classes, the
        largest first.
      name: of the data set; "cityscapes-" and the split by default.

    Raises:
      LayoutError: files are missing, or are no such files; or no record is left.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        captions: str | Path | None = None,
        *,
        class_captions: bool = False,
        name: str | None = None,
    ) -> None:
        layout = Layout(name or f"cityscapes-{split}", _LAYOUT)
        super().__init__(
            layout,
            LABELS,
            _files_of_cities(Path(root) / "leftImg8bit" / split, _PHOTO_END, layout),
            _files_of_cities(Path(root) / "gtFine" / split, _LABELS_END, layout),
            captions,
            class_captions=class_captions,
        )


def _files_of_cities(folder: Path, end: str, layout: Layout) -> dict[str, str]:
    """Returns the paths of all cities' files that end so, by what is before the end."""
    return {
        name.removesuffix(end): str(folder / city / name)
        for city in layout.folder_names(folder)
        for name in layout.file_names(folder / city)
        if name.endswith(end)
    }
