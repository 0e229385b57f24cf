"""COCO-WholeBody: the images of COCO 2017 with 133 points of each person."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from input_pipeline import pose
from input_pipeline.readers.coco import CocoReader, entry
from input_pipeline.readers.layout import Layout, Tally, digest
from input_pipeline.schema import Record

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

# In the order of a pose's points.
_POINT_LISTS = {
    "keypoints": 17,
    "foot_kpts": 6,
    "face_kpts": 68,
    "lefthand_kpts": 21,
    "righthand_kpts": 21,
}
_LAYOUT = """\
  POSES     coco_wholebody_train_v1.0.json or coco_wholebody_val_v1.0.json: {"annotations":
            [{"image_id", "keypoints", "foot_kpts", "face_kpts", "lefthand_kpts",
            "righthand_kpts"}]}, where points are [x, y, visibility, x, y, ...]
  CAPTIONS, IMAGES, LABELS of COCO 2017's split"""


class WholeBodyReader:
    """A record source: COCO's records with the field `pose`.

    A point's score is its visibility of at most 1, so that it is 1 for points that are labelled,
    whether something is in front of them or not. Persons without any point are left out.

    Args:
      poses: coco_wholebody_train_v1.0.json, or that of the split "val".
      captions: see `CocoReader`.
      images: see `CocoReader`.
      labels: see `CocoReader`.
      people_only: whether images without a person are left out.
      name: of the data set; "wholebody-" and the name of the folder of images by default.

    Raises:
      LayoutError: files are missing, or are no such files; or no record is left.
    """

    def __init__(
        self,
        poses: str | Path,
        captions: str | Path,
        images: str | Path,
        labels: str | Path | None = None,
        *,
        people_only: bool = True,
        name: str | None = None,
    ) -> None:
        self.name = name or f"wholebody-{Path(images).name}"
        layout = Layout(self.name, _LAYOUT)
        content = layout.json(poses, ("annotations",))
        people = _people_by_image(content, layout) if content else {}
        layout.check()
        self._coco = CocoReader(captions, images, labels, name=self.name)
        self.fields = (*self._coco.fields, "pose")
        self.palette = self._coco.palette

        tally = Tally()
        tally.counts.update(self._coco.left_out)
        tally.examples.update(self._coco.left_out_examples)
        self._chosen: list[int] = []
        self._people: list[tuple[_KnownPoints, ...]] = []
        for index, number in enumerate(self._coco.image_ids):
            if people_only and number not in people:
                tally.add("no person", str(number))
            else:
                self._chosen.append(index)
                self._people.append(tuple(people.get(number, ())))
        layout.check_any(self._chosen, tally)
        self.left_out, self.left_out_examples = tally.counts, tally.examples
        with open(poses, "rb") as file:
            own = hashlib.file_digest(file, "sha256").hexdigest()
        self.contents = digest([self._coco.contents, own, self._chosen])

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Record:
        people = [_dense(points) for points in self._people[index]]
        return {**self._coco[self._chosen[index]], "pose": pose.to_json(people)}


class _KnownPoints(NamedTuple):
    """A person's points with a score; most of faces and hands have none."""

    numbers: UInt8[np.ndarray, " k"]
    values: Float[np.ndarray, "k 3"]


def _known(points: Float[np.ndarray, "133 3"]) -> _KnownPoints:
    numbers = np.flatnonzero(points[:, 2] > 0)
    return _KnownPoints(numbers.astype(np.uint8), points[numbers])


def _dense(points: _KnownPoints) -> Float[np.ndarray, "133 3"]:
    dense = np.zeros((pose.POINTS, 3), np.float32)
    dense[points.numbers] = points.values
    return dense


def _people_by_image(content: Mapping[str, Any], layout: Layout) -> dict[int, list[_KnownPoints]]:
    """Returns the persons of images by COCO's numbers, in the order of the file."""
    found: dict[int, list[_KnownPoints]] = {}
    for index, annotation in enumerate(content["annotations"]):
        number = entry(annotation, "image_id", int)
        points, problem = _points(annotation)
        if number is None:
            layout.note(f'annotations[{index}] of the poses file lacks "image_id"')
        elif points is None:
            layout.note(f"annotations[{index}] of the poses file {problem}")
        elif (points[:, 2] > 0).any():
            found.setdefault(number, []).append(_known(points))
    return found


def _points(annotation: Any) -> tuple[Float[np.ndarray, "133 3"] | None, str]:
    """Returns the points of a person, or what is wrong with them."""
    rows = []
    for key, count in _POINT_LISTS.items():
        values = entry(annotation, key, list)
        try:
            rows.append(np.array(values, np.float32).reshape(count, 3))
        except (TypeError, ValueError):
            return None, f"has no list {key!r} of {count} points, {3 * count} numbers"
    points = np.concatenate(rows)
    if not np.isfinite(points).all():
        return None, "has points that are NaN or infinite"
    points[:, 2] = np.clip(points[:, 2], 0, 1)
    return points, ""
