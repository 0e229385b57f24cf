"""Tiny raw data sets in their real formats, for tests of readers and of what comes after them.

Each function writes a folder tree and returns the arguments of its reader:

    reader = CocoReader(**write_coco(tmp_path))

All is a function of the arguments. The pictures show an object on ground under a sky.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from input_pipeline import pose

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

SKY, GROUND, OBJECT = 0, 1, 2
SIZE = (48, 64)
"""Height and width of pictures by default."""


def picture(
    index: int, size: tuple[int, int] = SIZE
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
    """Returns a photo, and which of its pixels are `SKY`, `GROUND` and `OBJECT`.

    Args:
      index: of the picture; each has its own colours and its object in another place.
      size: height and width, at least 8.
    """
    rng = np.random.default_rng(index)
    height, width = size
    regions = np.full(size, SKY, np.uint8)
    regions[height // 2 :] = GROUND
    top, left = int(rng.integers(1, height // 3)), int(rng.integers(1, width // 2))
    regions[top : top + height // 2, left : left + width // 3] = OBJECT
    colours = rng.integers(0, 256, (3, 3))
    light = np.linspace(0.6, 1, width)[:, None]
    return (colours[regions] * light).astype(np.uint8), regions


def encoded(pixels: UInt8[np.ndarray, "..."], file_format: str = "JPEG", **options: Any) -> bytes:
    """Returns a picture file of Pillow's making."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, file_format, **options)
    return buffer.getvalue()


def write_coco(
    root: Path,
    count: int = 3,
    size: tuple[int, int] = SIZE,
    split: str = "train2017",
    captions: Mapping[int, Sequence[str]] | None = None,
) -> dict[str, Path]:
    """Returns the arguments of `CocoReader` for a data set with label maps.

    Args:
      root: folder for it.
      count: of images.
      size: height and width of the images.
      split: of COCO.
      captions: of images by their index; five of its own for any other image.
    """
    images, labels = root / split, root / "stuffthingmaps" / split
    # Person, sea and sky-other, and void in a corner.
    numbers = np.array([156, 154, 0], np.uint8)
    listed, annotations = [], []
    for index in range(count):
        image_id = 9 + 16 * index
        name = f"{image_id:012d}"
        pixels, regions = picture(index, size)
        label_map = numbers[regions]
        label_map[:2, :2] = 255
        _write(images / f"{name}.jpg", encoded(pixels, quality=92))
        _write(labels / f"{name}.png", encoded(label_map, "PNG"))
        listed.append(
            {"id": image_id, "file_name": f"{name}.jpg", "height": size[0], "width": size[1]}
        )
        own = [f"Object {index} by the sea: view {view}." for view in range(5)]
        for caption in (captions or {}).get(index, own):
            number = len(annotations) + 1
            annotations.append({"id": number, "image_id": image_id, "caption": caption})
    file = root / "annotations" / f"captions_{split}.json"
    _write_json(file, {"info": {}, "images": listed, "annotations": annotations})
    return {"captions": file, "images": images, "labels": labels}


def write_wholebody(
    root: Path, count: int = 3, size: tuple[int, int] = SIZE, split: str = "train2017"
) -> dict[str, Path]:
    """Returns the arguments of `WholeBodyReader`; the last image has no person.

    Args:
      root: folder for it.
      count: of images.
      size: height and width of the images.
      split: of COCO.
    """
    arguments = write_coco(root, count, size, split)
    listed = json.loads(arguments["captions"].read_text(encoding="utf-8"))["images"]
    annotations = []
    for index, image in enumerate(listed[:-1]):
        for _ in range(1 + index % 2):
            points = person(len(annotations), size)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": 1,
                    "iscrowd": 0,
                    "bbox": [0, 0, size[1], size[0]],
                    "num_keypoints": 17,
                    "keypoints": _flat(points[:17]),
                    "foot_kpts": _flat(points[17:23]),
                    "face_kpts": _flat(points[23:91]),
                    "lefthand_kpts": _flat(points[91:112]),
                    "righthand_kpts": _flat(points[112:133]),
                }
            )
    file = root / "annotations" / "coco_wholebody_train_v1.0.json"
    _write_json(file, {"images": listed, "annotations": annotations})
    return {"poses": file, **arguments}


def person(index: int, size: tuple[int, int] = SIZE) -> Float[np.ndarray, "133 3"]:
    """Returns the points of a person with visibilities of 2; the right hand has none.

    Args:
      index: of the person; each stands elsewhere.
      size: height and width of the picture.
    """
    rng = np.random.default_rng(index)
    points = np.full((pose.POINTS, 3), 2, np.float32)
    points[:, 0] = rng.integers(0, size[1], pose.POINTS)
    points[:, 1] = rng.integers(0, size[0], pose.POINTS)
    points[112:] = 0
    return points


def write_pickapic(
    root: Path,
    rows: Sequence[Mapping[str, Any]] | int = 4,
    size: tuple[int, int] = SIZE,
    rows_a_group: int = 2,
    files: int = 1,
) -> dict[str, Path]:
    """Returns the arguments of `PickAPicReader`; needs pyarrow.

    Args:
      root: folder for it.
      rows: how many, or what is special in each: values by the names of columns.
      size: height and width of the images.
      rows_a_group: in the parquet files.
      files: into which the rows are split.
    """
    import pyarrow
    from pyarrow import parquet

    given = [{}] * rows if isinstance(rows, int) else rows
    table = [{**_pair(index, size), **row} for index, row in enumerate(given)]
    types = {"label_0": pyarrow.float64(), "label_1": pyarrow.float64()}
    root.mkdir(parents=True, exist_ok=True)
    a_file = -(-len(table) // files)
    for number in range(files):
        part = table[number * a_file : (number + 1) * a_file]
        columns = {
            name: pyarrow.array([row[name] for row in part], types.get(name))
            for name in _pair(0, size)
        }
        parquet.write_table(
            pyarrow.table(columns),
            root / f"train-{number:05d}-of-{files:05d}.parquet",
            row_group_size=rows_a_group,
        )
    return {"folder": root}


def _pair(index: int, size: tuple[int, int]) -> dict[str, Any]:
    """Returns a row of Pick-a-Pic in which the first image is preferred."""
    first, second = (encoded(picture(2 * index + i, size)[0]) for i in range(2))
    return {
        "are_different": True,
        "best_image_uid": f"uid-{index}-0",
        "caption": f"a painting of object {index}: in oil",
        "has_label": True,
        "image_0_uid": f"uid-{index}-0",
        "image_1_uid": f"uid-{index}-1",
        "jpg_0": first,
        "jpg_1": second,
        "label_0": 1.0,
        "label_1": 0.0,
        "ranking_id": index,
    }


def write_ade20k(
    root: Path, count: int = 3, size: tuple[int, int] = SIZE, split: str = "training"
) -> dict[str, Any]:
    """Returns the arguments of `Ade20kReader`, with a file of two captions for each image.

    Args:
      root: folder for it.
      count: of images.
      size: height and width of the images.
      split: of the data set.
    """
    # Sky, grass, and what is none of the 150 classes.
    numbers, captions = np.array([3, 10, 0], np.uint8), {}
    for index in range(count):
        name = f"ADE_train_{index + 1:08d}"
        pixels, regions = picture(index, size)
        _write(root / "images" / split / f"{name}.jpg", encoded(pixels))
        _write(root / "annotations" / split / f"{name}.png", encoded(numbers[regions], "PNG"))
        captions[name] = [f"a meadow, {index}", f"grass under a sky: number {index}"]
    _write_json(root / "captions.json", captions)
    return {"root": root, "split": split, "captions": root / "captions.json"}


def write_cityscapes(
    root: Path, count: int = 3, size: tuple[int, int] = SIZE, split: str = "train"
) -> dict[str, Any]:
    """Returns the arguments of `CityscapesReader`, without captions.

    Args:
      root: folder for it.
      count: of images; they are dealt to two cities.
      size: height and width of the images.
      split: of the data set.
    """
    # Sky, road and ego vehicle, which is void.
    numbers = np.array([23, 7, 1], np.uint8)
    for index in range(count):
        city = ("aachen", "ulm")[index % 2]
        name = f"{city}_{index:06d}_000019"
        pixels, regions = picture(index, size)
        _write(
            root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", encoded(pixels, "PNG")
        )
        _write(
            root / "gtFine" / split / city / f"{name}_gtFine_labelIds.png",
            encoded(numbers[regions], "PNG"),
        )
    return {"root": root, "split": split}


def write_celebamask(
    root: Path, count: int = 3, size: tuple[int, int] = (64, 64)
) -> dict[str, Path]:
    """Returns the arguments of `CelebAMaskReader`; masks are half as large as images.

    Args:
      root: folder for it.
      count: of images.
      size: height and width of the images, even numbers.
    """
    masks = root / "CelebAMask-HQ-mask-anno"
    parts = {"skin": (SKY, GROUND), "hair": (SKY,), "nose": (OBJECT,)}
    for index in range(count):
        pixels, regions = picture(index, size)
        _write(root / "CelebA-HQ-img" / f"{index}.jpg", encoded(pixels))
        for part, members in parts.items():
            marked = np.isin(regions[::2, ::2], members).astype(np.uint8) * 255
            three = np.repeat(marked[..., None], 3, axis=-1)
            _write(masks / str(index // 2000) / f"{index:05d}_{part}.png", encoded(three, "PNG"))
    return {"root": root}


def write_upstream(
    root: Path,
    save_embedding: Callable[[np.ndarray, Path], None],
    count: int = 3,
    size: int = 48,
    split: str = "train",
) -> dict[str, Any]:
    """Returns the arguments of `UpstreamReader` but the one that reads embeddings.

    Images are wider than their maps, as those of COCO are.

    Args:
      root: folder for it.
      save_embedding: writes a vector to a `.pt` file, as `torch.save` does.
      count: of records.
      size: height and width of all but the image.
      split: of the data set.
    """
    lines = []
    for index in range(count):
        uid = f"{index:012d}"
        wide, regions = picture(index, (size, size + 16))
        pixels = wide[:, 8:-8]
        mask = np.where(regions[:, 8:-8] == OBJECT, 255, 0).astype(np.uint8)
        nearness = np.repeat(mask[..., None] // 2, 3, axis=-1)
        _write(root / split / f"{uid}.jpg", encoded(wide))
        _write(root / f"{split}_mask" / f"{uid}.png", encoded(mask, "PNG"))
        cut_out = np.where(mask[..., None] > 0, pixels, 0).astype(np.uint8)
        _write(root / f"{split}_foreground" / f"{uid}.jpg", encoded(cut_out))
        _write(root / f"{split}_background" / f"{uid}.jpg", encoded(pixels))
        for layer in ("foreground", "background"):
            _write(root / f"{split}_{layer}_depthmaps" / f"{uid}.jpg", encoded(nearness))
            folder = root / f"{split}_{layer}_embeddings"
            folder.mkdir(parents=True, exist_ok=True)
            vector = np.random.default_rng(index).standard_normal(768).astype(np.float32)
            save_embedding(vector, folder / f"{uid}.pt")
        lines.append(f"{uid}:object {index} before a wall: by night")
    _write(root / f"{split}_captions.txt", "\n".join(lines).encode())
    return {"base": root, "split": split}


def _flat(points: Float[np.ndarray, "n 3"]) -> list[float]:
    return points.reshape(-1).tolist()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _write_json(path: Path, content: Any) -> None:
    _write(path, json.dumps(content, ensure_ascii=False).encode())
