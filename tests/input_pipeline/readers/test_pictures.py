from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from input_pipeline.codecs import decode_picture
from input_pipeline.readers.pictures import (
    ClassNumbers,
    fit_labels,
    read_bytes,
    read_marked,
    read_numbers,
    stored_labels,
    stored_photo,
)
from input_pipeline.schema import VOID, RecordError
from input_pipeline.testing import encoded, picture

WHERE = "set/7: folder/7.jpg"
PHOTO = picture(0, (24, 40))[0]


def with_orientation(pixels: np.ndarray, orientation: int, file_format: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(pixels, file_format, exif=exif)


def as_mode(mode: str, file_format: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PHOTO).convert(mode).save(buffer, file_format)
    return buffer.getvalue()


# ---- photos


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_an_upright_rgb_file_is_kept_as_it_came(file_format):
    data = encoded(PHOTO, file_format)
    photo = stored_photo(data, WHERE)
    assert photo.data is data
    assert photo.size == (24, 40)


def test_orientation_1_is_upright():
    data = with_orientation(PHOTO, 1)
    assert stored_photo(data, WHERE).data is data


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (2, np.fliplr(PHOTO)),
        (3, np.rot90(PHOTO, 2)),
        (6, np.rot90(PHOTO, -1)),
        (8, np.rot90(PHOTO)),
    ],
)
def test_a_turned_photo_comes_out_upright(orientation, turned):
    # PNG also holds EXIF, and no loss of its own hides a wrong turn.
    photo = stored_photo(with_orientation(PHOTO, orientation, "PNG"), WHERE)
    assert photo.size == turned.shape[:2]
    found = decode_picture(photo.data, "photo")
    assert np.abs(found.astype(int) - turned).mean() < 3
    assert Image.open(io.BytesIO(photo.data)).getexif().get(0x0112, 1) == 1


def test_a_turned_jpeg_has_the_size_of_the_upright_image():
    photo = stored_photo(with_orientation(PHOTO, 6), WHERE)
    assert photo.size == (40, 24)
    assert decode_picture(photo.data, "photo").shape == (40, 24, 3)


@pytest.mark.parametrize(
    ("mode", "file_format"),
    [("L", "JPEG"), ("CMYK", "JPEG"), ("L", "PNG"), ("P", "PNG"), ("RGB", "BMP"), ("RGB", "TIFF")],
)
def test_other_modes_and_formats_become_rgb(mode, file_format):
    photo = stored_photo(as_mode(mode, file_format), WHERE)
    found = decode_picture(photo.data, "photo").astype(int)
    expected = np.asarray(Image.fromarray(PHOTO).convert(mode).convert("RGB")).astype(int)
    assert np.abs(found - expected).mean() < 5
    assert Image.open(io.BytesIO(photo.data)).format == "JPEG"


def test_a_photo_of_16_bits_is_scaled_not_cut_off():
    deep = np.linspace(0, 65535, 24 * 40).reshape(24, 40).astype(np.uint16)
    found = decode_picture(stored_photo(encoded(deep, "PNG"), WHERE).data, "photo")
    assert np.abs(found[..., 0].astype(int) - deep // 257).max() < 6


def test_what_is_transparent_becomes_black():
    rgba = np.dstack([PHOTO, np.where(np.arange(40) < 20, 255, 0)[None].repeat(24, 0)])
    found = decode_picture(stored_photo(encoded(rgba.astype(np.uint8), "PNG"), WHERE).data, "photo")
    assert found[:, 22:].max() < 20
    assert np.abs(found[:, :18].astype(int) - PHOTO[:, :18]).mean() < 5


def test_a_colour_that_stands_for_transparent_becomes_black():
    two = np.full((24, 40, 3), 200, np.uint8)
    two[:, :20] = (10, 250, 10)
    data = encoded(two, "PNG", transparency=(10, 250, 10))
    assert Image.open(io.BytesIO(data)).mode == "RGB"
    found = decode_picture(stored_photo(data, WHERE).data, "photo")
    assert found[:, :18].max() < 20
    assert found[:, 22:].min() > 180


def test_of_an_animation_the_first_frame_is_stored():
    buffer = io.BytesIO()
    frames = [Image.fromarray(picture(index, (24, 40))[0]) for index in (0, 1)]
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    photo = stored_photo(buffer.getvalue(), WHERE)
    assert Image.open(io.BytesIO(photo.data)).format == "JPEG"
    assert np.abs(decode_picture(photo.data, "photo").astype(int) - PHOTO).mean() < 5


def flipped_bit(data: bytes, position: int) -> bytes:
    damaged = bytearray(data)
    damaged[position] ^= 1
    return bytes(damaged)


@pytest.mark.parametrize(
    "data",
    [
        encoded(PHOTO)[:-200],
        encoded(PHOTO)[:20],
        encoded(PHOTO, "PNG")[:-100],
        flipped_bit(encoded(PHOTO, "PNG"), 70),
        # The checksum of the pixels, which alone is wrong then.
        flipped_bit(encoded(PHOTO, "PNG"), -13),
        encoded(PHOTO, "WEBP")[:-40],
        b"<html>not found</html>",
    ],
)
def test_a_damaged_photo_is_an_error_that_names_the_record_and_the_file(data):
    with pytest.raises(RecordError, match=f"^{WHERE} (cannot be decoded|is no picture)"):
        stored_photo(data, WHERE)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_header_that_promises_too_many_pixels_is_refused():
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 11000, 10000, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(bytes(16)))
    message = f"^{WHERE} has 10000 x 11000 pixels, expected at most 100000000"
    with pytest.raises(RecordError, match=message):
        stored_photo(data, WHERE)


def test_a_missing_or_empty_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(RecordError, match=f"^{WHERE} cannot be read: No such file"):
        read_bytes(tmp_path / "7.jpg", WHERE)
    (tmp_path / "7.jpg").touch()
    with pytest.raises(RecordError, match=f"^{WHERE} is empty"):
        read_bytes(tmp_path / "7.jpg", WHERE)


@settings(max_examples=60, deadline=None)
@given(position=st.integers(0, 2000), value=st.integers(0, 255), cut=st.integers(0, 400))
def test_damaged_bytes_give_a_photo_or_a_record_error(position, value, cut):
    data = bytearray(encoded(PHOTO, quality=60))
    data[position % len(data)] = value
    data = bytes(data[: len(data) - cut])
    try:
        photo = stored_photo(data, WHERE)
    except RecordError as error:
        assert str(error).startswith(WHERE)  # noqa: PT017
    else:
        assert decode_picture(photo.data, "photo").shape == (*photo.size, 3)


# ---- label pictures

NUMBERS = (np.arange(24 * 40) % 181).reshape(24, 40).astype(np.uint8)


def test_grey_numbers_are_read_as_they_are():
    assert np.array_equal(read_numbers(encoded(NUMBERS, "PNG"), WHERE), NUMBERS)


def test_indices_of_a_palette_are_numbers_not_colours():
    image = Image.fromarray(NUMBERS, "L").copy()
    image.putpalette([255 - n // 3 for n in range(768)])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    assert Image.open(io.BytesIO(buffer.getvalue())).mode == "P"
    assert np.array_equal(read_numbers(buffer.getvalue(), WHERE), NUMBERS)


def test_numbers_of_16_bits_are_read_whole():
    deep = NUMBERS.astype(np.uint16) * 300
    assert np.array_equal(read_numbers(encoded(deep, "PNG"), WHERE), deep)
    rule = ClassNumbers({0: 4, 300: 5}, "0 or 300")
    assert rule.labels(np.array([[0, 300]], np.uint16), WHERE).tolist() == [[4, 5]]


def test_numbers_of_one_bit_are_0_and_1():
    assert read_numbers(encoded(NUMBERS > 90, "PNG"), WHERE).tolist() == (NUMBERS > 90).tolist()


def test_colours_are_no_numbers():
    with pytest.raises(RecordError, match=f"^{WHERE} has Pillow's mode RGB, expected a picture of"):
        read_numbers(encoded(PHOTO, "PNG"), WHERE)


def test_labels_in_a_lossy_format_are_refused():
    with pytest.raises(RecordError, match=f"^{WHERE} is no picture of the formats PNG"):
        read_numbers(encoded(NUMBERS), WHERE)


def test_a_damaged_label_picture_is_an_error():
    with pytest.raises(RecordError, match=f"^{WHERE} cannot be decoded"):
        read_numbers(encoded(NUMBERS, "PNG")[:-60], WHERE)


def test_numbers_without_a_meaning_are_refused_with_those_that_have_one():
    rule = ClassNumbers({0: 0, 2: 1, 255: VOID}, "0, 2 or 255")
    assert rule.labels(np.array([[0, 2, 255]], np.uint8), WHERE).tolist() == [[0, 1, VOID]]
    for numbers, shown in (
        (np.array([[0, 1, 7]], np.uint8), r"\[1, 7\]"),
        (np.array([[256]], np.uint16), r"\[256\]"),
        (np.array([[-1]], np.int32), r"\[-1\]"),
    ):
        with pytest.raises(RecordError, match=f"^{WHERE} .* numbers {shown}, expected 0, 2 or 255"):
            rule.labels(numbers, WHERE)


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1"])
def test_marked_pixels_are_those_that_are_not_black(mode):
    mask = np.where(NUMBERS > 90, 255, 0).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(mask).convert(mode).save(buffer, "PNG")
    assert np.array_equal(read_marked(buffer.getvalue(), WHERE), mask > 0)


# ---- label maps of another size


@pytest.mark.parametrize("size", [(24, 40), (48, 80), (12, 20), (31, 52), (240, 400)])
def test_resized_labels_are_labels_of_the_nearest_pixel(size):
    # A corner of 1 and the rest 181: any mean of the two would be a new number.
    labels = np.full((24, 40), 181, np.uint8)
    labels[:11, :9] = 1
    resized = fit_labels(labels, size, WHERE)
    assert resized.shape == size
    assert set(np.unique(resized).tolist()) == {1, 181}
    rows = ((np.arange(size[0]) + 0.5) * 24 / size[0]).astype(int)
    columns = ((np.arange(size[1]) + 0.5) * 40 / size[1]).astype(int)
    assert np.array_equal(resized, labels[rows][:, columns])


@settings(max_examples=40, deadline=None)
@given(
    scale=st.floats(0.2, 4),
    seed=st.integers(0, 100),
    shape=st.tuples(st.integers(8, 50), st.integers(8, 50)),
)
def test_resizing_invents_no_label(scale, seed, shape):
    labels = np.random.default_rng(seed).choice(np.array([0, 7, 91, 182, 255], np.uint8), shape)
    size = (max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale)))
    resized = fit_labels(labels, size, WHERE)
    assert set(np.unique(resized)) <= set(np.unique(labels))


@pytest.mark.parametrize("size", [(40, 24), (24, 24), (48, 70), (24, 43)])
def test_labels_of_other_proportions_are_refused(size):
    with pytest.raises(
        RecordError, match=f"^{WHERE} has 24 x 40 pixels and its photo {size[0]} x {size[1]}"
    ):
        fit_labels(np.zeros((24, 40), np.uint8), size, WHERE)


def test_proportions_may_be_off_by_the_rounding_of_a_pixel():
    labels = np.zeros((213, 320), np.uint8)
    assert fit_labels(labels, (427, 640), WHERE).shape == (427, 640)
    assert fit_labels(np.zeros((427, 640), np.uint8), (213, 320), WHERE).shape == (213, 320)


def test_stored_labels_are_a_grey_picture_of_the_photos_size():
    labels = np.full((12, 20), 9, np.uint8)
    stored = decode_picture(stored_labels(labels, (24, 40), WHERE), "grey")
    assert stored.shape == (24, 40)
    assert (stored == 9).all()
