"""Object recall of drawn segmentations, which one is kept, and the paper's table."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fgdm_jax.compliance import (
    choose,
    covered_area,
    object_recall,
    object_shares,
    recall_table,
)
from fgdm_jax.palette import labels_of
from fgdm_jax.vocabulary import classes_of, objects_in
from input_pipeline.palettes import palette


def a_map(*squares: tuple[int, int]) -> jax.Array:
    """Returns labels [1 64 64], 9 with squares (class, side) side by side along the top."""
    labels = np.full((1, 64, 64), 9)
    left = 0
    for number, side in squares:
        labels[0, :side, left : left + side] = number
        left += side + 1
    return jnp.asarray(labels, jnp.int32)


def test_shares_are_of_the_pixels():
    shares = object_shares(a_map((1, 16), (2, 8)), [1, 2, 3, 9])
    np.testing.assert_allclose(shares[0], [1 / 16, 1 / 64, 0, 1 - 5 / 64], atol=0.003)
    shares = object_shares(a_map((1, 16), (2, 8)), [1, 2, 3, 9], thickness=1)
    np.testing.assert_array_equal(shares[0], [1 / 16, 1 / 64, 0, 1 - 5 / 64])


def test_recall_is_the_share_of_the_objects():
    labels = jnp.concatenate([a_map((1, 16), (2, 8)), a_map((1, 16)), a_map()])
    np.testing.assert_allclose(object_recall(labels, [1, 2, 3]), [2 / 3, 1 / 3, 0], atol=1e-6)
    np.testing.assert_array_equal(object_recall(labels, [9]), [1, 1, 1])


def test_who_asks_for_nothing_gets_all_of_it():
    labels = jnp.concatenate([a_map((1, 16)), a_map()])
    np.testing.assert_array_equal(object_recall(labels, []), [1, 1])
    assert object_shares(labels, []).shape == (2, 0)
    np.testing.assert_array_equal(covered_area(labels, []), [0, 0])


def test_an_object_must_be_large_enough():
    labels = jnp.concatenate([a_map((1, 8)), a_map((1, 7))])
    np.testing.assert_array_equal(object_recall(labels, [1], min_share=1 / 64), [1, 0])
    np.testing.assert_array_equal(object_recall(a_map((1, 3)), [1]), [1])


def test_borders_are_no_objects():
    lines = np.zeros((1, 64, 64), np.int32)
    lines[0, :, 31:33] = 1
    lines[0, 8:11, 8:11] = 2
    labels = jnp.asarray(lines)
    np.testing.assert_array_equal(object_shares(labels, [1, 2])[0], [0, 9 / 4096])
    np.testing.assert_array_equal(object_shares(labels, [1], thickness=1)[0], [1 / 32])
    np.testing.assert_array_equal(object_shares(labels, [2], thickness=5)[0], [0])
    lines[0, :, 33] = 1
    np.testing.assert_array_equal(object_shares(jnp.asarray(lines), [1])[0], [3 / 64])


def test_mixed_colours_between_two_classes_are_not_counted():
    # A blurred border between person and sky shows classes that nobody drew.
    coco = palette("coco")
    sides = np.repeat([0, 156], [32, 32])
    rows = coco.colours[sides].astype(float)
    kernel = np.array([0.1, 0.2, 0.4, 0.2, 0.1])
    rows = np.stack([np.convolve(np.pad(r, 2, "edge"), kernel, "valid") for r in rows.T], -1)
    images = jnp.asarray(np.broadcast_to(rows, (1, 64, 64, 3)) / 127.5 - 1, jnp.float32)
    labels = labels_of(images, coco.colours, void=182)
    others = [number for number in range(182) if number not in (0, 156)]
    assert object_recall(labels, others, thickness=1).item() > 0
    assert object_recall(labels, others).item() == 0
    assert object_recall(labels, [0, 156]).item() == 1


def test_any_class_of_an_object_will_do():
    labels = a_map((1, 8), (4, 8))
    np.testing.assert_array_equal(object_recall(labels, [(1, 2), (2, 3)]), [0.5])
    # Parts of several classes count together: neither alone is large enough.
    np.testing.assert_array_equal(object_recall(labels, [(1, 4)], min_share=0.02), [1])
    np.testing.assert_array_equal(object_recall(labels, [1, 4], min_share=0.02), [0])


def test_classes_of_one_colour_count_as_each_other():
    ade = palette("ade20k")
    road, tower = ade.classes.index("road"), ade.classes.index("skyscraper")
    for drawn in (road, tower):
        labels = a_map((drawn, 16))
        for asked in (road, tower):
            assert object_recall(labels, [asked], colours=ade.colours).item() == 1
    assert object_recall(a_map((tower, 16)), [road]).item() == 0
    assert covered_area(a_map((tower, 16)), [road, tower], colours=ade.colours) == pytest.approx(
        1 / 16, abs=1e-3
    )


def test_the_area_counts_pixels_once():
    labels = a_map((1, 16), (2, 8))
    np.testing.assert_array_equal(covered_area(labels, [1, (1, 2)]), [5 / 64])


def test_choose_takes_recall_then_area_then_the_first():
    recall = jnp.asarray([0.5, 1.0, 1.0, 1.0])
    assert choose(recall).item() == 1
    assert choose(recall, jnp.asarray([0.9, 0.1, 0.3, 0.3])).item() == 2
    assert choose(jnp.zeros(3), jnp.zeros(3)).item() == 0


def test_choose_is_best_in_any_order(rng):
    for _ in range(30):
        recall = rng.integers(0, 4, 7) / 3
        area = rng.integers(0, 3, 7) / 2
        index = choose(jnp.asarray(recall, jnp.float32), jnp.asarray(area, jnp.float32)).item()
        best = max(zip(recall, area, strict=True))
        assert (recall[index], area[index]) == best
        assert all(pair != best for pair in zip(recall[:index], area[:index], strict=True))


def test_the_three_steps_are_one_jitted_function():
    coco = palette("coco")
    asked = [
        classes_of(name, coco.classes)
        for name in objects_in("a dog in front of a brick wall", coco.classes)
    ]
    maps = np.zeros((3, 64, 64), np.int32)
    maps[:, 32:] = coco.classes.index("wall-brick")
    maps[1:, :16, :16] = coco.classes.index("dog")
    maps[2, :16, :20] = coco.classes.index("dog")
    images = jnp.asarray(coco.colours[maps] / 127.5 - 1, jnp.float32)

    @jax.jit
    def kept(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        labels = labels_of(images, coco.colours, void=182)
        recall = object_recall(labels, asked, colours=coco.colours)
        return choose(recall, covered_area(labels, asked)), recall

    index, recall = kept(images)
    assert index == 2
    np.testing.assert_array_equal(recall, [0.5, 1, 1])


@pytest.mark.parametrize(
    ("asked", "arguments", "message"),
    [
        ([()], {}, "object 0 is .*, expected one or more classes"),
        ([1, -1], {}, r"object 1 is \(-1,\)"),
        ([183], {"colours": palette("coco").colours}, r"object 0 is \(183,\).* 0 to 182"),
        ([1], {"thickness": 2}, "thickness is 2, expected an odd number"),
        ([1], {"min_share": 0.0}, "min_share is 0.0, expected a share .* such as 0.001"),
        ([1], {"min_share": 10.0}, "min_share is 10.0"),
    ],
)
def test_what_is_out_of_range(asked, arguments, message):
    with pytest.raises(ValueError, match=message):
        object_recall(a_map(), asked, **arguments)


def test_table_of_hand_computed_recalls():
    table = recall_table(np.array([[0.0, 0.5, 1.0], [0.8, 0.9, 0.75]]))
    assert (table.prompts, table.samples) == (2, 3)
    assert table.minimum == pytest.approx((0 + 0.75) / 2)
    assert table.median == pytest.approx((0.5 + 0.8) / 2)
    assert table.maximum == pytest.approx((1.0 + 0.9) / 2)
    assert table.mean == pytest.approx((1.5 + 2.45) / 6)
    assert table.counts == (2.5, 2.0, 1.0)


def test_nine_of_ten_in_float32_is_at_least_nine_tenths():
    assert recall_table(jnp.full((1, 1), 0.9, jnp.float32)).counts == (1, 1, 1)


def test_text_of_the_table():
    names, values = recall_table(np.array([[0.5, 1.0]])).text().splitlines()
    columns = [
        "prompts",
        "N",
        "min %",
        "median %",
        "max %",
        "mean %",
        ">= 0.5",
        ">= 0.75",
        ">= 0.9",
    ]
    assert [name.strip() for name in names.split("  ")] == columns
    assert values.split() == ["1", "2", "50.0", "75.0", "100.0", "75.0", "2.0", "1.0", "1.0"]
    assert len(names) == len(values)


@pytest.mark.parametrize(
    "recalls", [np.zeros((0, 3)), np.zeros((2, 0)), np.full((1, 1), np.nan), np.full((1, 2), 1.5)]
)
def test_recalls_that_are_none(recalls):
    with pytest.raises(ValueError, match=r"recalls have shape .* expected \(prompts, N\)"):
        recall_table(recalls)
