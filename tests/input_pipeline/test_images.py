from __future__ import annotations

import io
import os
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from skimage import data

from input_pipeline import image_files
from input_pipeline.image_files import ImageFileError
from input_pipeline.images import (
    clip_pixels,
    cover_crop_box,
    read_depth_map,
    read_mask,
    read_photo,
    read_photo_uint8,
    to_uint8,
    write_png,
)

READERS = [read_photo, read_photo_uint8, read_depth_map, read_mask]
ASTRONAUT = data.astronaut()
COFFEE = data.coffee()


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def save_array(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content).to_bytes(4, "big")
    return len(content).to_bytes(4, "big") + kind + content + checksum


def png_with_header(width: int, height: int) -> bytes:
    """A grey PNG whose header may promise any size, with one row of data."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    rows = zlib.compress(bytes(16))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [png_chunk(b"IHDR", header), png_chunk(b"IDAT", rows), png_chunk(b"IEND", b"")]
    )


# ---- the shared crop


@pytest.mark.parametrize(
    ("source_size", "size", "box"),
    [
        ((512, 512), (512, 512), (0, 0, 512, 512)),
        ((400, 600), (512, 512), (100, 0, 500, 400)),
        ((600, 400), (512, 512), (0, 100, 400, 500)),
        ((400, 600), (512, 768), (0, 0, 600, 400)),
        ((100, 100), (64, 128), (0, 25, 100, 75)),
        # An odd difference without scaling: whole pixels, not half ones.
        ((100, 103), (100, 100), (1, 0, 101, 100)),
    ],
)
def test_cover_crop_box_by_hand(source_size, size, box):
    assert cover_crop_box(source_size, size) == box


@given(
    source=st.tuples(st.integers(1, 9000), st.integers(1, 9000)),
    size=st.tuples(st.integers(1, 2048), st.integers(1, 2048)),
)
@settings(max_examples=300, deadline=None)
def test_cover_crop_box_never_squashes_and_stays_inside(source, size):
    left, top, right, bottom = cover_crop_box(source, size)
    assert 0 <= left < right <= source[1]
    assert 0 <= top < bottom <= source[0]
    assert (right - left) * size[0] == pytest.approx((bottom - top) * size[1], rel=1e-9)
    assert right - left == pytest.approx(source[1]) or bottom - top == pytest.approx(source[0])
    # Centred, up to the half pixel that an unscaled crop gives away.
    assert abs(left + right - source[1]) <= 1
    assert abs(top + bottom - source[0]) <= 1


@pytest.mark.parametrize("size", [(0, 64), (64,), (64, 64, 3), (-1, 64), (64.0, 64), ("a", 1)])
def test_sizes_that_are_none_are_refused(size, tmp_path):
    path = save(tmp_path / "a.png", ASTRONAUT[:8, :8])
    for read in READERS:
        with pytest.raises(ValueError, match=r"size is .*expected \(height, width\)"):
            read(path, size)


@pytest.mark.parametrize("size", [(64, 64), (128, 64), (64, 192), (320, 448)])
@pytest.mark.parametrize("depth_scale", [1, 2])
def test_photo_depth_and_mask_of_a_scene_stay_aligned(tmp_path, size, depth_scale):
    scene = np.zeros((300, 450), np.uint8)
    scene[120:200, 180:300] = 255
    small = scene[::depth_scale, ::depth_scale]
    photo = read_photo(save(tmp_path / "p.png", np.repeat(scene[..., None], 3, -1)), size)
    depth = read_depth_map(save(tmp_path / "d.png", small), size)[..., 0]
    mask = read_mask(save_array(tmp_path / "m.npy", scene > 0), size)
    assert photo.shape == (*size, 3)
    assert depth.shape == mask.shape == size
    places = [np.argwhere(x > 0.5).mean(axis=0) for x in (photo[..., 0] / 2 + 0.5, depth, mask)]
    np.testing.assert_allclose(places[1], places[0], atol=0.6)
    np.testing.assert_allclose(places[2], places[0], atol=0.6)


# ---- photos


def test_photo_without_size_has_the_pixels_of_the_file(tmp_path):
    path = save(tmp_path / "a.png", ASTRONAUT)
    photo = read_photo(path)
    assert photo.dtype == np.float32
    assert photo.min() == -1
    assert photo.max() == 1
    np.testing.assert_array_equal(read_photo_uint8(path), ASTRONAUT)
    np.testing.assert_array_equal(to_uint8(photo), ASTRONAUT)


def test_photo_is_cropped_around_its_centre_and_not_squashed(tmp_path):
    path = save(tmp_path / "coffee.png", COFFEE)
    whole = Image.fromarray(COFFEE).resize((192, 128), Image.Resampling.BICUBIC)
    photo = read_photo_uint8(path, (128, 128)).astype(int)
    np.testing.assert_allclose(photo, np.asarray(whole)[:, 32:160], rtol=0, atol=1)


def test_photo_arrays_belong_to_the_caller(tmp_path):
    path = save(tmp_path / "a.png", ASTRONAUT)
    for read in READERS:
        for size in (None, (64, 64)):
            array = read(path, size)
            assert array.flags.writeable
            assert array.flags.c_contiguous


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_upright_by_their_exif_orientation(tmp_path, orientation):
    # What a camera held that way stores: the inverse of what a viewer must do.
    stored = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x, 1),
        7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
        8: lambda x: np.rot90(x, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / "phone.jpg"
    Image.fromarray(np.ascontiguousarray(stored(COFFEE))).save(
        path, exif=exif, quality=95, subsampling=0
    )
    photo = read_photo_uint8(path)
    assert photo.shape == COFFEE.shape
    assert np.abs(photo.astype(int) - COFFEE).mean() < 4
    assert read_mask(path).shape == read_depth_map(path).shape[:2] == COFFEE.shape[:2]


def test_every_mode_becomes_rgb(tmp_path):
    rgb = Image.fromarray(COFFEE)
    grey = np.asarray(rgb.convert("L"))
    cases = {
        "palette.png": (rgb.quantize(256), COFFEE, 12),
        "grey.png": (rgb.convert("L"), np.repeat(grey[..., None], 3, -1), 0),
        "cmyk.jpg": (rgb.convert("CMYK"), COFFEE, 6),
        "one_bit.png": (
            Image.fromarray(grey > 99),
            np.repeat(grey[..., None] > 99, 3, -1) * 255,
            0,
        ),
        "deep.png": (
            Image.fromarray(grey.astype(np.uint16) * 257),
            np.repeat(grey[..., None], 3, -1),
            0,
        ),
        "float.tif": (
            Image.fromarray(grey.astype(np.float32) / 255),
            np.repeat(grey[..., None], 3, -1),
            0,
        ),
        "photo.webp": (rgb, COFFEE, 6),
        "photo.bmp": (rgb, COFFEE, 0),
    }
    for name, (image, expected, tolerance) in cases.items():
        image.save(tmp_path / name)
        photo = read_photo_uint8(tmp_path / name)
        assert photo.shape == COFFEE.shape, name
        assert np.abs(photo.astype(int) - expected).mean() <= tolerance, name


def test_transparent_parts_become_black(tmp_path):
    rgba = np.dstack([ASTRONAUT, np.full((512, 512), 255, np.uint8)])
    rgba[:100, :, 3] = 0
    rgba[100:200, :, 3] = 128
    photo = read_photo_uint8(save(tmp_path / "a.png", rgba))
    assert not photo[:100].any()
    np.testing.assert_allclose(photo[100:200], ASTRONAUT[100:200] * (128 / 255), atol=1)
    np.testing.assert_array_equal(photo[200:], ASTRONAUT[200:])


def test_transparent_palette_entries_become_black(tmp_path):
    pixels = np.zeros((4, 4), np.uint8)
    pixels[2:] = 1
    image = Image.fromarray(pixels).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.save(tmp_path / "a.png", transparency=0)
    photo = read_photo_uint8(tmp_path / "a.png")
    assert not photo[:2].any()
    assert (photo[2:] == (0, 255, 0)).all()


def test_first_frame_of_an_animation_is_used_and_said(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for name in ("a.gif", "a.png", "a.webp", "a.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with pytest.warns(UserWarning, match=rf"{name}.*several frames"):
            photo = read_photo_uint8(tmp_path / name)
        assert photo[4, 4, 0] > 250, name
        assert photo[4, 4, 2] < 5, name


def test_pictures_of_phones_are_no_animations(tmp_path):
    first, second = Image.fromarray(COFFEE), Image.fromarray(COFFEE[:64, :64])
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    assert read_photo_uint8(tmp_path / "a.jpg").shape == COFFEE.shape


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (3, 3)])
def test_very_small_and_narrow_pictures_are_resized(tmp_path, shape):
    path = save(tmp_path / "a.png", np.full((*shape, 3), 200, np.uint8))
    assert (read_photo_uint8(path, (64, 128)) == 200).all()
    assert read_mask(path, (64, 128)).shape == (64, 128)
    np.testing.assert_allclose(read_depth_map(path, (128, 64)), 200 / 255, rtol=1e-6)


# ---- depth maps


def test_depth_of_8_and_16_bits(tmp_path):
    shallow = np.arange(256, dtype=np.uint8).reshape(16, 16)
    deep = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    depth = read_depth_map(save(tmp_path / "8.png", shallow))
    assert depth.dtype == np.float32
    assert depth.shape == (16, 16, 3)
    np.testing.assert_array_equal(depth, np.repeat(shallow[..., None] / np.float32(255), 3, -1))
    for name in ("16.png", "16.tif"):
        depth = read_depth_map(save(tmp_path / name, deep))
        assert len(np.unique(depth)) == 4096
        np.testing.assert_array_equal(depth[..., 1], deep / np.float32(65535))


def test_depth_of_32_bit_integers_must_fit_16_bits(tmp_path):
    values = np.array([[0, 65535], [32768, 1]], np.int32)
    depth = read_depth_map(save(tmp_path / "a.tif", values))
    np.testing.assert_array_equal(depth[..., 0], values.astype(np.float32) / 65535)
    with pytest.raises(ImageFileError, match=r"32-bit values of 0 to 70000; expected.*65535"):
        read_depth_map(save(tmp_path / "b.tif", np.array([[0, 70000]], np.int32)))


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f4", "f8", "u1", "u2", ">u2", "?"])
def test_depth_arrays_of_every_type(tmp_path, dtype):
    wanted = np.random.default_rng(0).random((6, 9))
    dtype = np.dtype(dtype)
    top = {"f": 1, "b": 1, "u": 256**dtype.itemsize - 1}[dtype.kind]
    array = np.rint(wanted * top).astype(dtype) if dtype.kind != "f" else wanted.astype(dtype)
    expected = array.astype(np.float64) / top
    for stored in (array, array[..., None], np.asfortranarray(array)):
        depth = read_depth_map(save_array(tmp_path / "a.npy", stored))
        assert depth.dtype == np.float32
        np.testing.assert_allclose(depth, np.repeat(expected[..., None], 3, -1), atol=1e-7)


def test_three_channel_maps_are_kept(tmp_path):
    normals = np.random.default_rng(1).random((8, 8, 3)).astype(np.float32)
    np.testing.assert_array_equal(
        read_depth_map(save_array(tmp_path / "normals.npy", normals)), normals
    )
    np.testing.assert_array_equal(
        read_depth_map(save(tmp_path / "a.png", COFFEE)), COFFEE / np.float32(255)
    )


def test_invert_turns_depth_round(tmp_path):
    path = save_array(tmp_path / "a.npy", np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8))
    np.testing.assert_array_equal(read_depth_map(path, invert=True), 1 - read_depth_map(path))


def test_resized_depth_stays_in_range_and_fine(tmp_path):
    step = np.zeros((100, 100), np.uint16)
    step[:, 50:] = 65535
    depth = read_depth_map(save(tmp_path / "a.png", step), (64, 96))
    assert depth.min() == 0
    assert depth.max() == 1
    ramp = np.tile(np.linspace(0.4, 0.41, 256, dtype=np.float32), (256, 1))
    depth = read_depth_map(save_array(tmp_path / "b.npy", ramp), (128, 128))
    assert len(np.unique(depth)) > 100, "an 8-bit detour would leave 3 values"


def test_depth_arrays_outside_the_range_are_refused(tmp_path):
    with pytest.raises(
        ImageFileError, match=r"a\.npy: has values of 0\.5 to 80; .*\[0, 1\].*normal"
    ):
        read_depth_map(save_array(tmp_path / "a.npy", np.array([[0.5, 80.0]])))
    with pytest.raises(ImageFileError, match=r"values of -1 to 1"):
        read_depth_map(save_array(tmp_path / "b.npy", np.array([[-1.0, 1.0]])))
    slightly = save_array(tmp_path / "c.npy", np.array([[-1e-4, 1.0001]]))
    assert read_depth_map(slightly)[..., 0].tolist() == read_mask(slightly).tolist() == [[0, 1]]


def test_holes_in_depth_arrays_are_counted_and_placed(tmp_path):
    depth = np.zeros((5, 7), np.float32)
    depth[2, 3] = np.nan
    depth[4, 0] = np.inf
    path = save_array(tmp_path / "holes.npy", depth)
    for read in (read_depth_map, read_mask):
        with pytest.raises(ImageFileError, match=r"holes\.npy: has 2 NaN .* index \(2, 3\)"):
            read(path)


# ---- masks


def test_mask_of_luminance_keeps_grey_values(tmp_path):
    values = np.array([[0, 1], [128, 255]], np.uint8)
    mask = read_mask(save(tmp_path / "a.png", values))
    assert mask.dtype == np.float32
    np.testing.assert_array_equal(mask, values / np.float32(255))
    deep = read_mask(save(tmp_path / "b.png", values.astype(np.uint16) * 257))
    np.testing.assert_array_equal(deep, values / np.float32(255))


def test_mask_is_the_alpha_channel_only_if_that_varies(tmp_path):
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:2, :, :3] = 255
    rgba[:, :2, 3] = 255
    by_alpha = read_mask(save(tmp_path / "a.png", rgba))
    np.testing.assert_array_equal(by_alpha, rgba[..., 3] / np.float32(255))
    rgba[..., 3] = 255
    by_luminance = read_mask(save(tmp_path / "b.png", rgba))
    np.testing.assert_array_equal(by_luminance, rgba[..., 0] / np.float32(255))


@pytest.mark.parametrize("array", [np.eye(6, dtype=bool), np.eye(6) * 0.25, np.eye(6)[..., None]])
def test_mask_arrays(tmp_path, array):
    mask = read_mask(save_array(tmp_path / "a.npy", array))
    np.testing.assert_array_equal(mask, array.reshape(6, 6).astype(np.float32))


def test_resizing_a_mask_invents_no_value(tmp_path):
    values = np.random.default_rng(0).choice([0, 90, 255], (90, 130)).astype(np.uint8)
    mask = read_mask(save(tmp_path / "a.png", values), (64, 192))
    assert mask.shape == (64, 192)
    assert set(np.unique(mask)) == {np.float32(v) / np.float32(255) for v in (0, 90, 255)}


# ---- files that cannot be used


def unusable_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Paths of files that no reader accepts, and what their errors must say."""
    png, jpeg, tiff = io.BytesIO(), io.BytesIO(), io.BytesIO()
    Image.fromarray(COFFEE).save(png, "PNG")
    Image.fromarray(COFFEE).save(jpeg, "JPEG")
    Image.fromarray(COFFEE[:32]).save(tiff, "TIFF", compression="tiff_lzw")
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("a.png", png.getvalue())
    flipped = bytearray(png.getvalue())
    flipped[len(flipped) // 2] ^= 1
    npy = io.BytesIO()
    np.save(npy, np.zeros((64, 64), np.float32))
    objects = io.BytesIO()
    np.save(objects, np.array([[{"a": 1}]], object), allow_pickle=True)
    contents = {
        "empty.png": (b"", "is empty"),
        "half.png": (png.getvalue()[:9000], "cannot be decoded"),
        "half.jpg": (jpeg.getvalue()[:9000], "cannot be decoded.*truncated"),
        "half.tif": (tiff.getvalue()[:1500], "cannot be decoded|not a picture"),
        "flipped.png": (bytes(flipped), "cannot be decoded"),
        "header.png": (png.getvalue()[:24] + bytes(99), "PNG file whose header is damaged"),
        "text.png": (b"a photo of a cat\n" * 9, "not a picture that can be read; expected one of"),
        "drawing.png": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        "xml.png": (b'<?xml version="1.0"?><svg/>', "SVG"),
        "zip.png": (zipped.getvalue(), "zip archive"),
        "page.jpg": (b"\n<!DOCTYPE html><html></html>", "web page"),
        "lfs.png": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        "script.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        "bomb.png": (png_with_header(30_000, 30_000), "decompression bomb.*at most 100000000"),
        "large.png": (png_with_header(10_001, 10_000), "10000 x 10001 pixels.*100000000"),
        "flat.png": (png_with_header(0, 16), "size of zero"),
        "half.npy": (npy.getvalue()[:1000], r"half\.npy: "),
        "header.npy": (npy.getvalue()[:20], r"header\.npy: "),
        "objects.npy": (objects.getvalue(), r"objects\.npy: "),
        "text.npy": (b"0.5 0.25\n" * 9, r"text\.npy: is not a picture.*or \.npy"),
    }
    cases = {}
    for name, (content, message) in contents.items():
        (folder / name).write_bytes(content)
        cases[name] = (folder / name, message)
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    cases["folder.png"] = (folder / "folder.png", "is a folder")
    cases["pipe.png"] = (folder / "pipe.png", "is a device or a pipe")
    cases["missing.png"] = (folder / "missing.png", "does not exist")
    cases["long.png"] = (folder / ("x" * 300 + ".png"), "cannot be reached")
    return cases


@pytest.mark.parametrize("read", READERS)
def test_unusable_files_are_refused_by_name(tmp_path, read):
    for name, (path, message) in unusable_files(tmp_path).items():
        with pytest.raises(ImageFileError, match=message) as caught:
            read(path)
        assert str(path) in str(caught.value), name
        assert "expected" in str(caught.value), name


def test_object_arrays_are_never_unpickled(tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "canary"),)

    np.save(tmp_path / "a.npy", np.array([[Payload()]], object), allow_pickle=True)
    for read in (read_depth_map, read_mask):
        with pytest.raises(ImageFileError, match=r"a\.npy"):
            read(tmp_path / "a.npy")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(5), r"has shape \[5\]; expected \[height width\]"),
        (np.zeros((2, 4, 4, 3)), r"has shape \[2, 4, 4, 3\]"),
        (np.zeros((4, 4, 2)), r"has shape \[4, 4, 2\]"),
        (np.zeros((3, 64, 64)), r"has shape \[3, 64, 64\]; expected .*\[height width 1\]"),
        (np.zeros((0, 4)), "has 0 x 4 pixels"),
        (np.zeros((4, 4), np.int64), r"type int64; expected bool, uint8.*astype\(bool\)"),
        (np.zeros((4, 4), complex), "type complex128"),
        (np.array([["a"]]), "type <U1"),
    ],
)
def test_arrays_of_another_shape_or_type_are_refused(tmp_path, array, message):
    path = save_array(tmp_path / "a.npy", array)
    for read in (read_depth_map, read_mask):
        with pytest.raises(ImageFileError, match=message):
            read(path)


def test_colours_are_no_mask_and_arrays_no_photo(tmp_path):
    path = save_array(tmp_path / "a.npy", np.zeros((4, 4, 3)))
    with pytest.raises(ImageFileError, match=r"has shape \[4, 4, 3\]"):
        read_mask(path)
    with pytest.raises(ImageFileError, match="NumPy array, which only depth maps and masks"):
        read_photo(path)


def test_content_decides_and_not_the_name(tmp_path):
    array = save_array(tmp_path / "a.npy", np.full((4, 4), 0.5)).rename(tmp_path / "a.png")
    picture = save(tmp_path / "b.png", np.full((4, 4), 51, np.uint8)).rename(tmp_path / "b.npy")
    for read in (read_depth_map, read_mask):
        assert (read(array) == np.float32(0.5)).all()
        assert (read(picture) == np.float32(0.2)).all()


@pytest.mark.parametrize("is_whole", [True, False])
def test_arrays_of_too_many_pixels_are_refused_before_they_are_read(tmp_path, is_whole):
    path = tmp_path / "large.npy"
    with open(path, "wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (10_001, 10_000)}
        np.lib.format.write_array_header_1_0(file, header)
        # Without data, or with a hole of the right size, which takes no disk.
        file.truncate(file.tell() + 10_001 * 10_000 if is_whole else file.tell() + 9)
    message = "10001 x 10000 pixels" if is_whole else "cannot be read"
    tracemalloc.start()
    try:
        with pytest.raises(ImageFileError, match=message):
            read_depth_map(path)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_pixel_limit_is_ours_and_gives_no_warning(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", np.zeros((40, 50), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)
    assert read_photo(path).shape == (40, 50, 3)
    monkeypatch.setattr(image_files, "MAX_PIXELS", 1999)
    with pytest.raises(ImageFileError, match="40 x 50 pixels"):
        read_photo(path)


def test_warnings_of_the_decoder_name_the_file(tmp_path, monkeypatch):
    path = save(tmp_path / "odd.png", ASTRONAUT[:8, :8])
    decode = image_files._decode

    def warn_and_decode(path):
        for _ in range(2):
            warnings.warn("Corrupt EXIF data", UserWarning, stacklevel=1)
        return decode(path)

    monkeypatch.setattr(image_files, "_decode", warn_and_decode)
    with pytest.warns(UserWarning, match=r"odd\.png: Corrupt EXIF data") as caught:
        read_photo(path)
    assert len(caught) == 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "NPY"])
def test_damaged_files_raise_nothing_but_image_file_errors(tmp_path, kind):
    original = io.BytesIO()
    if kind == "NPY":
        np.save(original, np.random.default_rng(0).random((9, 9)))
    else:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        options = {} if kind == "GIF" else {"exif": exif}
        Image.fromarray(ASTRONAUT[:24, :24]).save(original, kind, **options)
    content = original.getvalue()
    path = tmp_path / "damaged"

    @given(
        changes=st.lists(
            st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=4
        ),
        length=st.integers(1, len(content)),
        is_cut=st.booleans(),
    )
    @settings(
        max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    def read_damaged(changes, length, is_cut):
        damaged = bytearray(content)
        for place, value in changes:
            damaged[place] = value
        path.write_bytes(damaged[:length] if is_cut else damaged)
        for read in READERS:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                try:
                    result = read(path, (8, 8))
                except ImageFileError:
                    continue
            assert np.isfinite(result).all()

    read_damaged()


def test_no_flipped_byte_of_a_png_changes_pixels_in_silence(tmp_path):
    path = save(tmp_path / "a.png", COFFEE[:12, :12])
    content = path.read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        try:
            photo = read_photo_uint8(path)
        except ImageFileError:
            continue
        np.testing.assert_array_equal(photo, COFFEE[:12, :12])


# ---- CLIP's input


@pytest.mark.parity
@pytest.mark.parametrize("image_size", [32, 224])
def test_clip_pixels_equal_those_of_transformers(image_size):
    transformers = pytest.importorskip("transformers")
    processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
    )
    for photo in (ASTRONAUT, COFFEE, data.chelsea(), COFFEE[:101, :77], COFFEE[:10]):
        expected = processor(Image.fromarray(photo), return_tensors="np")["pixel_values"][0]
        pixels = clip_pixels(photo, image_size)
        assert pixels.dtype == np.float32
        np.testing.assert_allclose(pixels, expected.transpose(1, 2, 0), rtol=0, atol=1e-6)


def test_clip_pixels_by_hand():
    pixels = clip_pixels(np.full((40, 60, 3), (0, 128, 255), np.uint8), 16)
    assert pixels.shape == (16, 16, 3)
    expected = [
        (0 - 0.48145466) / 0.26862954,
        (128 / 255 - 0.4578275) / 0.26130258,
        (1 - 0.40821073) / 0.27577711,
    ]
    np.testing.assert_allclose(pixels[3, 5], expected, rtol=1e-6)


def test_clip_pixels_of_a_file(tmp_path):
    path = save(tmp_path / "a.png", COFFEE)
    np.testing.assert_array_equal(clip_pixels(path), clip_pixels(COFFEE))
    np.testing.assert_array_equal(clip_pixels(str(path)), clip_pixels(COFFEE))


@pytest.mark.parametrize(
    ("photo", "message"),
    [
        (np.zeros((8, 8, 3), np.float32), "type float32, expected uint8"),
        (np.zeros((8, 8), np.uint8), r"shape \(8, 8\)"),
        (np.zeros((0, 8, 3), np.uint8), r"shape \(0, 8, 3\)"),
        (np.zeros((1, 9000, 3), np.uint8), "1 x 9000 pixels.*crop it first"),
    ],
)
def test_clip_pixels_refuse_what_is_no_photo(photo, message):
    with pytest.raises(ValueError, match=message):
        clip_pixels(photo)


# ---- writing


def test_to_uint8_rounds_to_nearest_and_clips():
    halves = (np.array([0, 0.4, 0.6, 127.4, 254.6, 255]) / 127.5 - 1).astype(np.float32)
    assert to_uint8(halves).tolist() == [0, 0, 1, 127, 255, 255]
    assert to_uint8(np.array([-3.0, 0.0, 3.0])).tolist() == [0, 128, 255]
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_uint8(every.astype(np.float32) / 127.5 - 1), every)


def test_to_uint8_of_batches_and_bfloat16():
    jnp = pytest.importorskip("jax.numpy")
    batch = jnp.full((2, 4, 4, 3), 0.5, jnp.bfloat16)
    assert (to_uint8(batch) == 191).all()
    assert to_uint8(batch).shape == (2, 4, 4, 3)


def test_to_uint8_refuses_nan_and_integers():
    broken = np.zeros((2, 2, 3), np.float32)
    broken[1, 0, 2] = np.nan
    with pytest.raises(ValueError, match=r"1 NaN or infinite .* index \(1, 0, 2\)"):
        to_uint8(broken)
    with pytest.raises(ValueError, match="type uint8, expected floats"):
        to_uint8(np.zeros((2, 2, 3), np.uint8))


def test_written_png_gives_the_same_pixels_and_text(tmp_path):
    path = tmp_path / "a.png"
    text = {"prompt": "a cat, 猫, naïve café", "seed": "1", "Ünicode key": ""}
    write_png(path, ASTRONAUT, text)
    np.testing.assert_array_equal(read_photo_uint8(path), ASTRONAUT)
    with Image.open(path) as image:
        assert image.text == text
    write_png(path, read_photo(path))
    np.testing.assert_array_equal(read_photo_uint8(path), ASTRONAUT)
    write_png(str(path), ASTRONAUT[..., 0])
    with Image.open(path) as image:
        assert image.mode == "L"
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_png(path, ASTRONAUT)
    before = path.read_bytes()

    def write_half(image, file, **options):
        Path(file).write_bytes(b"\x89PNG half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", write_half)
    with pytest.raises(OSError, match="disk full"):
        write_png(path, COFFEE)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("name", "image", "text", "message"),
    [
        ("a.jpg", ASTRONAUT, None, r"must end in \.png"),
        ("none/a.png", ASTRONAUT, None, "none does not exist"),
        ("a.png", ASTRONAUT[None], None, r"shape \(1, 512, 512, 3\)"),
        ("a.png", np.zeros((4, 4)), None, r"shape \(4, 4\) and type float64"),
        ("a.png", np.zeros((0, 4, 3), np.uint8), None, r"shape \(0, 4, 3\)"),
        ("a.png", np.zeros((4, 4, 3), np.int32), None, "type int32"),
        ("a.png", np.full((4, 4, 3), np.nan), None, "48 NaN"),
        ("a.png", ASTRONAUT, {"": "x"}, "text key ''"),
        ("a.png", ASTRONAUT, {"k" * 80: "x"}, "text key"),
        ("a.png", ASTRONAUT, {"a\0b": "x"}, "text key"),
        ("a.png", ASTRONAUT, {"猫": "x"}, "text key"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, name, image, text, message):
    with pytest.raises(ValueError, match=message):
        write_png(tmp_path / name, image, text)
    assert list(tmp_path.iterdir()) == []
