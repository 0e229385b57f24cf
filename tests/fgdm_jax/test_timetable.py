from __future__ import annotations

import functools
import itertools

import jax
import numpy as np
import pytest

from fgdm_jax.sampling import initial_joint_state, joint_history, joint_steps, sample_jointly
from fgdm_jax.timetable import joint_rows
from sd_jax.testing import quick_jit
from tests.fgdm_jax.toy_factors import (
    CLEAN,
    GIVEN,
    KEYS,
    RUNS,
    SHAPE,
    alone,
    assert_same,
    lowered,
    only,
    table,
    tables,
)


@pytest.mark.parametrize("length", [1, 2, 3, 5, 7, 9, 10])
def test_steps_are_spread_evenly_and_end_together(length):
    short, long = table(steps=length), table(steps=10)
    rows = joint_rows({"depth": short, "image": long})
    assert rows.factors["image"].advances is None
    assert_same(rows.factors["image"].row, long)
    own = rows.factors["depth"]
    takes = np.ones(10, bool) if own.advances is None else np.asarray(own.advances)
    assert (own.advances is None) == (length == 10)
    assert takes[-1]
    assert takes.sum() == length
    # Never more than a step away from the even share, rounded down.
    np.testing.assert_array_equal(np.cumsum(takes), np.arange(1, 11) * length // 10)
    np.testing.assert_array_equal(own.index[takes], np.arange(length))
    assert_same(jax.tree.map(lambda column: column[takes], own.row), short)


def test_a_child_of_few_steps_sees_its_parent_where_it_goes_itself():
    rows = joint_rows({"depth": table(steps=10), "image": table(steps=5)})
    takes = np.flatnonzero(rows.factors["image"].advances)
    parent_at, child_to = rows.factors["depth"].row, rows.factors["image"].row
    # What the parent is evaluated at in the next step is the level it has reached in this one.
    np.testing.assert_array_equal(
        parent_at.timesteps[takes[:-1] + 1], child_to.timesteps[takes[1:]]
    )


def test_nothing_is_decided_at_run_time_unless_numbers_of_steps_differ():
    def text(**steps):
        names = ("segmentation", "depth")
        own = tables(*names, **steps)
        return lowered(lambda rows: sample_jointly(only(*names), rows, KEYS), own).as_text()

    assert "stablehlo.case" not in text()
    assert text(segmentation=3).count("stablehlo.case") == 1


@functools.cache
def chunk_program(*names):
    """Returns joint_steps of some of the RUNS, compiled, and the number of its traces."""
    traces = []

    def steps(rows, state, keys, given):
        traces.append(rows)
        return joint_steps(only(*names), rows, state, keys, given)

    return quick_jit(steps), traces


def run_in_chunks(rows, cuts, names=tuple(RUNS), given=None):
    state = quick_jit(
        lambda keys: initial_joint_state(
            {name: RUNS[name].shape for name in names}, keys, rows.num_kept
        )
    )(KEYS)
    for first, last in itertools.pairwise(cuts):
        chunk = jax.tree.map(lambda column, a=first, b=last: column[a:b], rows)
        state = chunk_program(*names)[0](chunk, state, KEYS, given or {})
    return state


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_chunks_equal_the_whole(sampler):
    own = tables(*RUNS, sampler=sampler, segmentation=4, depth=10, image=5)
    keep = (9, 0, 4)
    whole = quick_jit(lambda *args: joint_history(RUNS, *args, keep=keep))(own, KEYS)
    for cuts in ((0, 10), (0, 5, 10), (0, 2, 4, 6, 8, 10), (0, 3, 10)):
        assert_same(run_in_chunks(joint_rows(own, keep), cuts), whole)
    # What of the single steps can be asked for: XLA inlines loops of one step.
    single = run_in_chunks(joint_rows(own, keep), range(11))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), single, whole)


def test_other_values_and_numbers_of_chunks_compile_nothing():
    names, given = ("depth", "image"), {"segmentation": GIVEN}
    _, traces = chunk_program(*names)
    before = len(traces)
    for sampler, steps, keep in (
        ("ddim", 6, (0, 5)),
        ("dpmpp_2m", 9, (8, 2)),
        ("ddim", 12, (1, 0)),
    ):
        own = tables(*names, sampler=sampler, depth=steps // 3, image=steps)
        state = run_in_chunks(joint_rows(own, keep), range(0, steps + 1, 3), names, given)
        assert np.isfinite(state.factors["image"].latents).all()
    assert len(traces) == before + 1


def test_kept_predictions_are_those_of_the_history():
    keep = (5, 0, 3)
    draw = quick_jit(
        lambda rows, keys, given: joint_history({"image": CLEAN}, rows, keys, given, keep=keep)
    )
    given = {"depth": GIVEN, "segmentation": 0.5 * GIVEN}
    state = draw({"image": table()}, KEYS, given)
    history = alone("image", table(), history=True, given=given, run=CLEAN)
    assert_same(state.kept["image"], history.x0[np.array(keep)])
    assert_same(state.factors["image"].latents, history.latents[-1])
    # Keeping changes nothing.
    unkept = quick_jit(lambda *args: sample_jointly({"image": CLEAN}, *args))
    assert_same(state.factors, unkept({"image": table()}, KEYS, given))


def test_predictions_of_all_factors_are_kept_and_a_waiting_one_keeps_its_latest():
    names = ("segmentation", "depth")
    own = tables(*names, segmentation=2, depth=6)
    state = quick_jit(lambda *args: joint_history(only(*names), *args, keep=(1, 2, 4)))(own, KEYS)
    first = alone("segmentation", own["segmentation"], history=True).x0[0]
    kept = state.kept["segmentation"]
    assert not np.any(kept[0])
    assert_same(kept[1], first)
    assert_same(kept[2], first)
    assert state.kept["depth"].shape == (3, 2, *SHAPE)
    assert np.abs(state.kept["depth"]).min(axis=(1, 2, 3, 4)).all()


def test_memory_grows_with_what_is_kept_and_not_with_the_steps():
    def temporary(steps, keep):
        run = only("segmentation")
        rows = {"segmentation": table(steps=steps)}
        draw = lowered(lambda rows: joint_history(run, rows, KEYS, keep=keep), rows)
        sizes = draw.compile().memory_analysis()
        return sizes.temp_size_in_bytes + sizes.output_size_in_bytes

    few, many, most = temporary(10, (0, 9)), temporary(200, (0, 9)), temporary(10, tuple(range(10)))
    latents = 4 * 2 * np.prod(SHAPE)
    # Of the steps, only numbers are held: the table, its indices and slots.
    assert many - few < 200 * 50
    assert most - few >= 8 * latents


@pytest.mark.parametrize(
    ("names", "steps", "keep", "message"),
    [
        ([], 6, (), "there are no tables"),
        (["depth"], 6, (6, -1), r"keep must be steps from 0 to 5, got \[6, -1\]"),
        (["depth"], 6, (2, 2), r"keep must name each step once, got \[2, 2\]"),
        (["depth"], 0, (), "the table of 'depth' has no steps"),
    ],
)
def test_wrong_timetables(names, steps, keep, message):
    own = {name: jax.tree.map(lambda column: column[:steps], table()) for name in names}
    with pytest.raises(ValueError, match=message):
        joint_rows(own, keep)
