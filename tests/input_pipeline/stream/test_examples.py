from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from input_pipeline.codecs import encode_picture
from input_pipeline.palettes import palette
from input_pipeline.schema import RecordError, RecordSource
from input_pipeline.stream.config import CNC_DROP, DROPPABLE, StreamConfig
from input_pipeline.stream.examples import ExampleReader, make_choices
from input_pipeline.stream.helpers import Helpers
from input_pipeline.stream.plan import Row
from tests.input_pipeline.stream.fakes import (
    ALL_FIELDS,
    PALETTES,
    DecodedSource,
    PatternSource,
    draw_pose,
)

EVERY_KEY = (
    "image",
    "depth_maps",
    "three_depth_maps",
    "edge_maps",
    "masks",
    "exemplar_embeddings",
    "text_embeddings",
    "names",
    "segmentation",
    "depth",
    "normal",
    "sketch",
    "canny",
    "pose",
    "mask",
)
LATENT_KEYS = ("latent_mean", "latent_logvar", "captions")


def reader(source: RecordSource, **settings: Any) -> ExampleReader:
    config = StreamConfig(**{"keys": EVERY_KEY, "batch_size": 1, "sizes": ((64, 64),)} | settings)
    empty = np.zeros((7, 8), np.float32)
    helpers = Helpers(palettes=PALETTES, draw_pose=draw_pose, empty_text_embedding=empty)
    return ExampleReader((source,), config, helpers)


def row(position: int = 0, index: int = 1) -> Row:
    return Row(source=0, index=index, position=position, bucket=0)


class Changed(PatternSource):
    """One record of the pattern source with some of its stored values replaced."""

    def __init__(self, **values: Any):
        super().__init__("changed", 5)
        self._values = values

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = super().__getitem__(index) | self._values
        return {name: value for name, value in record.items() if value is not None}


def test_decoded_and_encoded_sources_give_the_same() -> None:
    settings = {"crop": "random", "flip": 0.5, "drop": CNC_DROP}
    for position in range(10):
        stored = reader(PatternSource(), **settings).read(row(position))
        decoded = reader(DecodedSource(), **settings).read(row(position))
        assert stored.keys() == decoded.keys()
        for name, value in stored.items():
            # JPEG changes an image, by little.
            tolerance = 3 if name == "image" else 0
            if isinstance(value, np.ndarray):
                np.testing.assert_allclose(
                    value.astype(float), decoded[name].astype(float), atol=tolerance
                )
            else:
                assert value == decoded[name]


def test_an_example_depends_on_its_position_only() -> None:
    settings = {"crop": "random", "flip": 0.5, "drop": CNC_DROP}
    first = reader(PatternSource(), **settings).read(row(3))
    again = reader(PatternSource(), **settings).read(row(3))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    others = [reader(PatternSource(), **settings).read(row(position)) for position in range(4, 9)]
    assert any(not np.array_equal(first["image"], other["image"]) for other in others)
    seeded = reader(PatternSource(), seed=1, **settings).read(row(3))
    assert not np.array_equal(first["image"], seeded["image"])


def test_choices_do_not_depend_on_each_other() -> None:
    table = np.array([list(make_choices(0, position).values()) for position in range(3000)])
    assert table.min() >= 0
    assert table.max() < 1
    np.testing.assert_allclose(table.mean(0), 0.5, atol=0.03)
    correlation = np.corrcoef(table.T) - np.eye(table.shape[1])
    assert np.abs(correlation).max() < 0.08
    # One choice at successive positions.
    assert abs(np.corrcoef(table[1:, 3], table[:-1, 3])[0, 1]) < 0.08


def test_conditions_are_dropped_on_their_own_and_the_mask_never() -> None:
    drop = dict.fromkeys(DROPPABLE, 0.3)
    examples = [reader(DecodedSource(), drop=drop).read(row(position)) for position in range(600)]
    dropped = {
        "caption": [example["caption"] == "" for example in examples],
        **{
            name: [not example[name].any() for example in examples]
            for name in ("image_embedding", "background_embedding")
        },
        **{
            name: [example[name] is None for example in examples]
            for name in DROPPABLE
            if name not in ("caption", "image_embedding", "background_embedding")
        },
    }
    assert dropped.keys() == set(DROPPABLE)
    table = np.array(list(dropped.values()), float)
    np.testing.assert_allclose(table.mean(1), 0.3, atol=0.08)
    assert np.abs(np.corrcoef(table) - np.eye(len(table))).max() < 0.15
    for example, no_caption in zip(examples, dropped["caption"], strict=True):
        assert example["mask"].any()
        assert example["image"].any()
        assert (not example["text_embeddings"].any()) == (
            no_caption or example["caption"].endswith("first")
        )


def test_upstream_drops_five_conditions_in_a_tenth_of_cases() -> None:
    assert (
        dict.fromkeys(
            (
                "caption",
                "foreground_depth",
                "background_depth",
                "image_embedding",
                "background_embedding",
            ),
            0.1,
        )
        == CNC_DROP
    )


def test_any_caption_that_is_not_empty_with_its_embedding() -> None:
    examples = [reader(DecodedSource()).read(row(position)) for position in range(200)]
    captions = [example["caption"] for example in examples]
    assert set(captions) == {"1: first", "1: third"}
    assert 60 < captions.count("1: first") < 140
    for example in examples:
        number = {"1: first": 0, "1: third": 2}[example["caption"]]
        assert (example["text_embeddings"] == number).all()
    firsts = {
        reader(DecodedSource(), caption="first").read(row(position))["caption"]
        for position in range(20)
    }
    assert firsts == {"1: first"}


def test_an_image_that_lies_on_its_side_comes_upright() -> None:
    upright = np.zeros((128, 64, 3), np.uint8)
    upright[:20] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(np.rot90(upright)).save(file, "JPEG", quality=95, exif=exif)
    mask = upright[..., 0]
    source = Changed(image=file.getvalue(), mask=encode_picture(mask, "grey"), height=128, width=64)
    settings = {"sizes": ((128, 64),), "keys": ("image", "masks"), "crop": "random", "flip": 1}
    example = reader(source, **settings).read(row())
    assert example["image"].shape == (128, 64, 3)
    assert example["mask"].any()
    assert ((example["image"][..., 0] > 127) == (example["mask"] > 127)).mean() > 0.97


def test_maps_of_another_resolution_follow_the_image() -> None:
    small = PatternSource()[1]["mask"]
    large = Image.open(io.BytesIO(small)).resize((128, 128), Image.Resampling.NEAREST)
    source = Changed(mask=encode_picture(np.asarray(large), "grey"))
    settings = {"crop": "random", "flip": 0.5, "keys": ("image", "masks")}
    for position in range(10):
        example = reader(source, **settings).read(row(position))
        white = example["image"][..., 0] > 127
        assert (white == (example["mask"] > 127)).mean() > 0.95


def test_without_a_size_the_first_picture_counts() -> None:
    source = Changed(height=None, width=None)
    read = reader(source, keys=("image", "masks", "pose")).read(row())
    expected = reader(PatternSource(), keys=("image", "masks", "pose")).read(row())
    assert np.array_equal(read["image"], expected["image"])
    assert np.array_equal(read["pose"], expected["pose"])


def _palette_png() -> bytes:
    file = io.BytesIO()
    Image.new("P", (64, 64), 3).save(file, "PNG")
    return file.getvalue()


BAD_VALUES = {
    "no picture": ({"image": b"\xff\xd8\xff damaged"}, "'image' cannot be decoded"),
    "truncated": ({"image": PatternSource()[1]["image"][:300]}, "'image' cannot be decoded"),
    "8 bit for 16": (
        {"depth": encode_picture(np.zeros((64, 64), np.uint8), "grey")},
        "'depth' has Pillow's mode L, expected I;16",
    ),
    "16 bit for 8": (
        {"mask": encode_picture(np.zeros((64, 64), np.uint16), "deep")},
        "'mask' has Pillow's mode I;16, expected L",
    ),
    "palette for labels": ({"segmentation": _palette_png()}, "mode P, expected L"),
    "mask of another shape": (
        {"mask": encode_picture(np.zeros((64, 96), np.uint8), "grey")},
        "'mask' has 64 x 96 pixels",
    ),
    "missing": ({"background_depth": None}, "field 'background_depth' is missing"),
    "no captions": ({"captions": []}, "'captions' has no text"),
    "empty captions": ({"captions": ["", " \n"]}, "'captions' has no text"),
    "too few embeddings": (
        {"text_embeddings": np.zeros((2, 7, 8), np.float16)},
        "'text_embeddings' is of 2 captions, expected the record's 3",
    ),
    "not finite": (
        {"image_embedding": np.array([1, np.nan], np.float32)},
        "'image_embedding' has values that are not finite",
    ),
    "size of nothing": ({"height": 0}, "height is 0 and width 64"),
    "half a person": ({"pose": "[[[1, 2, 3]]]"}, "expected (n, 133, 3)"),
}


@pytest.mark.parametrize(("values", "problem"), BAD_VALUES.values(), ids=BAD_VALUES)
def test_a_bad_record_is_named(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(RecordError) as error:
        reader(Changed(**values)).read(row(index=3))
    assert "changed: record 3 (r3): " in str(error.value)
    assert problem in str(error.value)


def test_what_is_not_needed_is_not_decoded() -> None:
    source = Changed(canny=b"damaged", image=b"damaged")
    reader(source, keys=("depth_maps", "masks")).read(row())
    with pytest.raises(RecordError, match="canny"):
        reader(source, keys=("depth_maps", "canny")).read(row())


def test_latents_must_be_of_the_size_of_the_batch() -> None:
    example = reader(PatternSource(), keys=LATENT_KEYS).read(row())
    assert example["latent_mean"].shape == (8, 8, 4)
    assert example["latent_mean"].dtype == np.float32
    with pytest.raises(RecordError, match=r"'latent_mean' is of \(8, 8\) places, expected \(16, 8"):
        reader(PatternSource(), keys=LATENT_KEYS, sizes=((128, 64),)).read(row())


def test_helpers_that_are_missing_are_named() -> None:
    with pytest.raises(ValueError, match="tokenizer"):
        Helpers().token_ids(["a"])
    with pytest.raises(ValueError, match="there is no palette 'two'"):
        Helpers().colours("two")


def test_known_palettes_need_no_help() -> None:
    assert Helpers().colours("coco")[3].tolist() == [128, 128, 0]
    assert (Helpers(palettes={"coco": PALETTES["two"]}).colours("coco")[3] == 7).all()


def test_a_source_may_say_where_its_records_are() -> None:
    class Described(PatternSource):
        def describe(self, index: int) -> str:
            return f"folder/a.array_record: record {index}"

    with pytest.raises(RecordError, match=r"^folder/a.array_record: record 1: field 'image' cann"):
        reader(Described(bad=(1,))).read(row())


def test_settings_may_come_as_lists() -> None:
    config = StreamConfig(["image"], 1, sizes=[[64, 64]], weights=[1])  # type: ignore[arg-type]
    assert config == StreamConfig(("image",), 1, sizes=((64, 64),), weights=(1,))
    assert dataclasses.replace(config, drop={"caption": 0.5}).drop == {"caption": 0.5}
    assert set(config.required_fields) <= set(ALL_FIELDS)


def test_a_mirrored_face_has_its_left_eye_where_its_right_one_was() -> None:
    faces = palette("celebamask")
    left, right = faces.classes.index("left eye"), faces.classes.index("right eye")
    labels = np.zeros((64, 64), np.uint8)
    labels[:, :8], labels[:, -8:] = left, right

    class Faces(Changed):
        palette = "celebamask"

    source = Faces(segmentation=encode_picture(labels, "grey"))
    settings = {"keys": ("image", "segmentation")}
    plain, mirrored = (reader(source, flip=flip, **settings).read(row()) for flip in (0.0, 1.0))
    np.testing.assert_array_equal(mirrored["segmentation"], plain["segmentation"])
    np.testing.assert_array_equal(plain["segmentation"][0, 0], faces.colours[left])


MAPS = ("depth", "segmentation", "normal")
TEXT_TO_IMAGE = ("image", "input_ids")


def with_maps(source: RecordSource, positions: range, **settings: Any) -> list[dict[str, Any]]:
    read = reader(source, **{"keys": TEXT_TO_IMAGE, "maps": MAPS, "map_share": 0.6} | settings).read
    return [read(row(position)) for position in positions]


def test_maps_take_the_images_place_with_their_names() -> None:
    plain = with_maps(DecodedSource(), range(400), map_share=0.0)
    shown = with_maps(DecodedSource(), range(400))
    begins = {"depth": "depth of ", "segmentation": "segmentation of ", "normal": "normals of "}
    counts = dict.fromkeys(("image", *MAPS), 0)
    for with_map, without in zip(shown, plain, strict=True):
        caption = with_map["caption"]
        name = next((name for name in MAPS if caption.startswith(begins[name])), "image")
        counts[name] += 1
        # All other choices are those of a run without maps.
        assert caption == begins.get(name, "") + without["caption"]
        expected = without["image"] if name == "image" else with_map[name]
        np.testing.assert_array_equal(with_map["image"], expected)
    for name, share in (("image", 0.4), *((name, 0.2) for name in MAPS)):
        assert abs(counts[name] / 400 - share) < 0.07, name


def test_a_record_without_maps_shows_its_image() -> None:
    bare = DecodedSource(fields=tuple(name for name in ALL_FIELDS if name not in MAPS))
    (plain,) = with_maps(bare, range(1), map_share=0.0)
    (shown,) = with_maps(bare, range(1), map_share=1.0)
    np.testing.assert_array_equal(shown["image"], plain["image"])
    assert shown["caption"] == plain["caption"]


def test_a_dropped_caption_stays_empty_where_a_map_is_shown() -> None:
    (shown,) = with_maps(DecodedSource(), range(1), map_share=1.0, drop={"caption": 1.0})
    assert shown["caption"] == ""
    assert any(np.array_equal(shown["image"], shown[name]) for name in MAPS)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"maps": ("depht",)}, "maps has 'depht'"),
        ({"map_share": 1.5}, "map_share is 1.5"),
        ({"keys": ("image", "text_embeddings")}, "lack image or input_ids"),
    ],
)
def test_maps_that_cannot_be_shown_are_told(settings: dict[str, Any], expected: str) -> None:
    values = {"keys": TEXT_TO_IMAGE, "batch_size": 1, "maps": MAPS, "map_share": 0.5} | settings
    assert expected in "\n".join(StreamConfig(**values).problems())
