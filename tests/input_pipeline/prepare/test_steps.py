"""Each step of preparation on its own."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from skimage import data

from input_pipeline.codecs import decode_picture, encode_picture
from input_pipeline.prepare.depths import normals_from_depth
from input_pipeline.prepare.dilation import dilate
from input_pipeline.prepare.identity import identity
from input_pipeline.prepare.masks import Coverage, LabelMask, SaliencyMask
from input_pipeline.prepare.resize import Resize, nearest_size
from input_pipeline.prepare.sketches import Edges, soft_edges
from input_pipeline.prepare.step import Dropped, check_steps, fingerprints
from input_pipeline.schema import RecordError
from tests.input_pipeline.prepare.onnx_file import write_saliency_network

PHOTO_FIELDS = ("id", "source", "captions", "height", "width", "image")


def record_of(**fields):
    return {"id": "a", "source": "test", **fields}


def run(step, record):
    return step.encode(step.compute([step.decode(record)])[0])


# ---- resize


def test_everything_on_the_pixels_stays_aligned():
    labels = np.full((90, 130), 7, np.uint8)
    labels[30:60, 40:90] = 200
    photo = np.repeat(np.where(labels == 200, 250, 5).astype(np.uint8)[..., None], 3, -1)
    people = [[[40.0, 30.0, 1.0], [90.0, 60.0, 0.5]] + [[0.0, 0.0, 0.0]] * 131]
    step = Resize(((64, 64), (64, 96)), (*PHOTO_FIELDS, "segmentation", "pose"))
    fields = run(
        step,
        record_of(
            image=encode_picture(photo, "photo"),
            segmentation=encode_picture(labels, "grey"),
            pose=json.dumps(people),
        ),
    )
    assert (fields["height"], fields["width"]) == (64, 96)
    image = decode_picture(fields["image"], "photo")[..., 0]
    small = decode_picture(fields["segmentation"], "grey")
    # Nearest: no class that was not there.
    assert set(np.unique(small)) == {7, 200}
    # Away from the border of the box, which JPEG and bicubic blur.
    agree = (image > 128) == (small == 200)
    assert agree.mean() > 0.97
    rows, columns = np.nonzero(small == 200)
    (x, y, _), (right, bottom, _), absent = json.loads(fields["pose"])[0][:3]
    assert abs(x - columns.min()) <= 1
    assert abs(y - rows.min()) <= 1
    assert abs(right - columns.max() - 1) <= 1
    assert abs(bottom - rows.max() - 1) <= 1
    assert absent == [0, 0, 0]


def test_an_image_of_the_right_size_keeps_its_bytes():
    image = encode_picture(np.zeros((64, 96, 3), np.uint8), "photo")
    assert run(Resize(((64, 96),), PHOTO_FIELDS), record_of(image=image))["image"] == image


def test_small_images_are_left_out():
    image = encode_picture(np.zeros((40, 96, 3), np.uint8), "photo")
    step = Resize(((64, 96),), PHOTO_FIELDS, min_side=64)
    assert run(step, record_of(image=image)) == Dropped("a side shorter than 64")


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (448, 576)),
        ((640, 480), (576, 448)),
        ((500, 500), (512, 512)),
        ((9, 90), (448, 576)),
    ],
)
def test_the_nearest_size_crops_least(size, expected):
    assert nearest_size(size, ((512, 512), (448, 576), (576, 448))) == expected


# ---- masks


def test_classes_become_foreground():
    labels = np.array([[0, 90, 91, 255]], np.uint8)
    fields = run(LabelMask(), record_of(segmentation=encode_picture(labels, "grey")))
    np.testing.assert_array_equal(decode_picture(fields["mask"], "grey"), [[255, 255, 0, 0]])


@pytest.mark.parametrize(
    ("share", "coverage", "reason"),
    [
        (0.0, Coverage(), "mask empty"),
        (1.0, Coverage(), "mask full"),
        (0.05, Coverage(least=0.05), "mask under 0.05"),
        (0.9, Coverage(most=0.8), "mask over 0.8"),
        (0.5, Coverage(), None),
    ],
)
def test_masks_that_say_nothing_are_left_out(share, coverage, reason):
    mask = np.arange(100).reshape(10, 10) < share * 100
    result = coverage.encode(mask)
    assert (result.reason if isinstance(result, Dropped) else None) == reason


def test_saliency_runs_the_network(tmp_path):
    path = write_saliency_network(tmp_path / "u2net.onnx", size=32)
    photo = np.zeros((40, 60, 3), np.uint8)
    photo[10:30, 20:40] = 255
    step = SaliencyMask(path)
    fields = run(step, record_of(image=encode_picture(photo, "photo")))
    mask = decode_picture(fields["mask"], "grey")
    assert mask.shape == (40, 60)
    expected = photo[..., 0] > 0
    assert ((mask > 0) == expected).mean() > 0.95
    flat = np.full((40, 60, 3), 7, np.uint8)
    assert run(step, record_of(image=encode_picture(flat, "photo"))) == Dropped("mask empty")


def test_a_file_that_is_no_network(tmp_path):
    pytest.importorskip("onnxruntime")
    (tmp_path / "u2net.onnx").write_bytes(b"not a network")
    step = SaliencyMask(tmp_path / "u2net.onnx")
    with pytest.raises(ValueError, match=r"u2net\.onnx: cannot be loaded as an ONNX network"):
        step.compute([np.zeros((8, 8, 3), np.uint8)])


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 50])
def test_dilation_is_scipys(size, rng):
    from scipy import ndimage

    mask = rng.random((60, 80)) > 0.999
    mask[0, 0] = mask[-1, -1] = True
    expected = ndimage.binary_dilation(mask, np.ones((size, size))) if size > 1 else mask
    np.testing.assert_array_equal(dilate(mask, size), expected)


def test_dilation_of_upstreams_size():
    mask = np.zeros((101, 101), bool)
    mask[50, 50] = True
    rows, columns = np.nonzero(dilate(mask, 50))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (25, 74, 25, 74)


# ---- normals and edges


def test_normals_of_a_ball():
    y, x = np.mgrid[-1:1:65j, -1:1:65j]
    height = np.sqrt(np.clip(1 - x**2 - y**2, 0, None))
    normals = normals_from_depth((100 * height).astype(np.float32)).astype(float) / 127.5 - 1
    np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1, atol=0.02)
    left, top, middle = normals[32, 12], normals[12, 32], normals[32, 32]
    assert left[0] > 0.3
    assert top[1] > 0.3
    np.testing.assert_allclose(middle, [0, 0, 1], atol=0.02)
    np.testing.assert_allclose(normals[0, 0], [0, 0, 1], atol=0.02)


def test_edges_of_a_photograph():
    photo = data.astronaut()[:128, 100:300]
    fields = run(Edges(), record_of(image=encode_picture(photo, "photo")))
    canny, sketch = (decode_picture(fields[name], "grey") for name in ("canny", "sketch"))
    assert set(np.unique(canny)) == {0, 255}
    assert sketch[canny > 0].mean() > 2 * sketch[canny == 0].mean()


def test_soft_edges_of_nothing_are_nothing():
    assert not soft_edges(np.full((16, 16, 3), 9, np.uint8)).any()


# ---- recipes


def test_a_fingerprint_changes_with_what_matters_and_nothing_else():
    resize, mask, edges = Resize(((64, 64),), PHOTO_FIELDS), LabelMask(), Edges()
    first = fingerprints((resize, mask, edges), {"a": 1})
    assert fingerprints((resize, mask, edges), {"a": 1}) == first
    assert not set(fingerprints((resize, mask, edges), {"a": 2}).values()) & set(first.values())
    other_edges = fingerprints((resize, mask, Edges(low=1)), {"a": 1})
    assert [first[name] == other_edges[name] for name in first] == [True, True, False]
    # A mask that keeps other records changes what edges are made of.
    other_mask = fingerprints((resize, LabelMask(classes=(1,)), edges), {"a": 1})
    assert [first[name] == other_mask[name] for name in first] == [True, False, False]
    # The size of a batch on the CPU is no part of a recipe.
    faster = dataclasses.replace(edges, batch_size=5)
    assert fingerprints((resize, mask, faster), {"a": 1}) == first


def test_steps_in_an_impossible_order():
    resize = Resize(((64, 64),), PHOTO_FIELDS)
    problems = check_steps((LabelMask(), resize), PHOTO_FIELDS)
    assert problems[:1] == [
        "step 'mask' needs the field 'segmentation', which no step before it makes and the raw "
        "data lack"
    ]


def test_fields_that_would_keep_their_old_size():
    step = Resize(((64, 64),), PHOTO_FIELDS)
    assert step.check(("image", "depth", "captions")) == [
        "it cannot resize the field 'depth'; leave the step out, or the field"
    ]


def test_an_identity_is_that_of_the_files(tmp_path):
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_bytes(content)
    assert identity(tmp_path / "a") == identity(tmp_path / "b") != identity(tmp_path / "c")
    assert identity("owner/name") == "owner/name"
    before = identity(tmp_path / "a")
    (tmp_path / "copy" / ".cache").mkdir(parents=True)
    (tmp_path / "copy" / "weights").write_bytes(b"1")
    (tmp_path / "copy" / "README.md").write_text("a note")
    (tmp_path / "copy" / ".cache" / "date").write_text("today")
    assert identity(tmp_path / "copy") == before
    large = bytearray(2**22)
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(large)
        large[2**21 + 5] = 1
    assert identity(tmp_path / "one") != identity(tmp_path / "two")


def test_a_broken_image_is_named():
    with pytest.raises(RecordError, match="test record a: field 'image' cannot be decoded"):
        Edges().decode(record_of(image=b"nothing"))
