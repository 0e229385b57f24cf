from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sd_jax.training.checkpoints import CheckpointDamaged, Checkpoints
from sd_jax.training.optim import OPTIMIZERS, OptimizerConfig, make_optimizer
from sd_jax.training.state import make_state


def a_state(value=0.0):
    value = float(value)
    return {
        "step": jnp.int32(value),
        "params": {"a": {"kernel": jnp.full((6, 4), value), "bias": jnp.arange(3.0)}},
        "codes": jnp.full((5, 2), 200, jnp.uint8),
        "half": jnp.full((3,), value, jnp.bfloat16),
        "key": jax.random.key(3),
        "nothing": None,
    }


def abstract_of(state):
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )


def host(tree):
    """Returns the bytes of all arrays."""
    leaves = [
        jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        for leaf in jax.tree.leaves(tree)
    ]
    return [np.asarray(leaf).tobytes() for leaf in leaves]


def test_a_state_comes_back_bit_for_bit_though_it_was_donated(tmp_path, rng):
    """The step after a save writes over the state's buffers while Orbax is at work."""
    state = {
        f"{index:02}": jnp.asarray(rng.normal(size=(256, 1024)), jnp.float32) for index in range(24)
    }
    step = jax.jit(lambda tree: jax.tree.map(lambda x: -2.0 * x, tree), donate_argnums=0)
    abstract, expected = abstract_of(state), {}
    with Checkpoints(tmp_path, keep_last=4) as checkpoints:
        for number in range(4):
            expected[number] = [array.copy() for array in map(np.asarray, state.values())]
            state = jax.tree.map(jnp.copy, state)
            checkpoints.save(number, state, {"number": number})
            state = step(step(state))
        checkpoints.wait()
        assert checkpoints.steps() == [0, 1, 2, 3]
        for number, arrays in expected.items():
            found = checkpoints.restore(abstract, step=number)
            assert found is not None
            assert (found[0], found[2]) == (number, {"number": number})
            assert host(found[1]) == [array.tobytes() for array in arrays]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_states_of_all_optimizers_come_back(tmp_path, name):
    params = {"a": {"kernel": jnp.ones((128, 160)), "bias": jnp.ones((5,))}}
    optimizer = make_optimizer(OptimizerConfig(name=name))
    state = make_state(params, optimizer, has_ema=name == "adamw")
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {}, wait=True)
    with Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.restore(jax.eval_shape(lambda: state))
    assert found is not None
    assert jax.tree.structure(found[1]) == jax.tree.structure(state)
    assert host(found[1]) == host(state)


def test_typed_keys_small_types_and_none_come_back(tmp_path):
    with Checkpoints(tmp_path / "not" / "yet" / "there") as checkpoints:
        assert checkpoints.restore(abstract_of(a_state())) is None
        assert (checkpoints.meta(), checkpoints.steps()) == (None, [])
        checkpoints.save(7, a_state(7), {"data": {"seed": 1, "names": ["a"], "none": None}})
        checkpoints.wait()
        found = checkpoints.restore(abstract_of(a_state()))
        assert found is not None
        assert jax.tree.structure(found[1]) == jax.tree.structure(a_state())
        assert host(found[1]) == host(a_state(7))
        assert checkpoints.meta() == {"data": {"seed": 1, "names": ["a"], "none": None}}
        assert checkpoints.meta(8) is None


@pytest.mark.parametrize(
    ("keep_last", "keep_every", "kept"),
    [(1, 0, [6]), (2, 0, [5, 6]), (1, 2, [2, 4, 6]), (2, 3, [3, 5, 6]), (9, 0, [1, 2, 3, 4, 5, 6])],
)
def test_the_newest_and_every_nth_are_kept(tmp_path, keep_last, keep_every, kept):
    with Checkpoints(tmp_path, keep_last=keep_last, keep_every=keep_every) as checkpoints:
        for step in range(1, 7):
            checkpoints.save(step, {"a": jnp.float32(step)}, {})
            checkpoints.wait()
            assert step in checkpoints.steps()
        assert checkpoints.steps() == kept
    # The rule is the same for checkpoints that an earlier process wrote.
    with Checkpoints(tmp_path, keep_last=1, keep_every=keep_every) as checkpoints:
        checkpoints.save(7, {"a": jnp.float32(7)}, {}, wait=True)
        expected = [step for step in kept if keep_every and step % keep_every == 0]
        assert checkpoints.steps() == [*expected, 7]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_state_that_is_not_finite_is_refused_by_name(tmp_path, value):
    with Checkpoints(tmp_path, keep_last=1) as checkpoints:
        checkpoints.save(1, a_state(1), {}, wait=True)
        bad = a_state(2)
        bad["params"]["a"]["kernel"] = bad["params"]["a"]["kernel"].at[3, 1].set(value)
        with pytest.raises(ValueError, match=r"step 2 is not saved.*in params/a/kernel;"):
            checkpoints.save(2, bad, {})
        assert checkpoints.steps() == [1]


def test_every_difference_to_the_run_is_told_at_once(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, a_state(), {}, wait=True)
        other = {
            **a_state(),
            "params": {"a": {"kernel": jnp.zeros((4, 6))}, "b": jnp.zeros(2)},
            "half": jnp.zeros(3),
        }
        with pytest.raises(ValueError, match="step 3 does not fit this run") as error:
            checkpoints.restore(abstract_of(other), on_damage="previous")
        assert not isinstance(error.value, CheckpointDamaged)
        for part in (
            "missing in the checkpoint: params/b",
            "only in the checkpoint: params/a/bias",
            "params/a/kernel is float32[6, 4] in the checkpoint, expected float32[4, 6]",
            "half is bfloat16[3] in the checkpoint, expected float32[3]",
        ):
            assert f"\n- {part}" in str(error.value)
        with pytest.raises(ValueError, match=r"has no step 4, but \[3\]"):
            checkpoints.restore(abstract_of(other), step=4)


def test_a_saved_step_is_not_written_twice(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, a_state(1), {})
        checkpoints.save(3, a_state(3), {})
        checkpoints.save(3, a_state(3), {"again": True}, wait=True)
        assert checkpoints.meta(3) == {}
        with pytest.raises(ValueError, match=r"step 3 is not saved: .* holds step 3 of another"):
            checkpoints.save(3, a_state(4), {})
        with pytest.raises(ValueError, match=r"step 2 is not saved: .* holds step 3 of another"):
            checkpoints.save(2, a_state(2), {})
        assert checkpoints.steps() == [1, 3]


def test_an_old_checkpoint_is_renamed_before_it_is_deleted(tmp_path, monkeypatch):
    """Were it deleted in place, a crash meanwhile would leave half of one that counts as whole."""
    monkeypatch.setattr(shutil, "rmtree", lambda path, **_: next(iter(path.glob("*/_*"))).unlink())
    checkpoints = Checkpoints(tmp_path, keep_last=1)
    for step in (1, 2):
        checkpoints.save(step, a_state(step), {}, wait=True)
    assert checkpoints.steps() == [2]
    assert [path.name for path in tmp_path.glob("removed*/*")] == ["1"]
    monkeypatch.undo()
    with Checkpoints(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == ["2"]
    checkpoints.close()


def test_leftovers_go_and_everything_else_stays(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, a_state(1), {})
    shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp")
    for name in ("1.damaged", "notes"):
        (tmp_path / name).mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "1.damaged", "notes"]
        assert checkpoints.steps() == [1]


@pytest.mark.parametrize("numbers", [{"keep_last": 0}, {"keep_every": -1}])
def test_numbers_without_sense_are_refused(tmp_path, numbers):
    with pytest.raises(ValueError, match="expected at least 1 and 0"):
        Checkpoints(tmp_path, **numbers)


def test_meta_that_json_cannot_hold_is_refused(tmp_path):
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match="meta of a check"):
        checkpoints.save(1, a_state(), {"path": Path("a")})


def test_a_file_in_the_folders_place_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file cannot hold checkpoints .*another workdir"):
        Checkpoints(tmp_path / "file")


def fail_once(monkeypatch, name, error):
    """Makes one function of `os` fail, once; TensorStore writes past it, Orbax does not."""
    true, calls = getattr(os, name), []

    def failing(*args, **kwargs):
        if not calls:
            calls.append(args)
            raise error
        return true(*args, **kwargs)

    monkeypatch.setattr(os, name, failing)
    return calls


@pytest.mark.parametrize("name", ["rename", "mkdir"])
@pytest.mark.parametrize("noticed_by", ["wait", "save", "close"])
def test_the_error_of_a_save_in_the_background_is_raised(tmp_path, monkeypatch, name, noticed_by):
    """The next call that looks raises it; the older checkpoint stays, and the next save works."""
    checkpoints = Checkpoints(tmp_path, keep_last=1)
    checkpoints.save(1, a_state(1), {}, wait=True)
    calls = fail_once(monkeypatch, name, OSError(errno.ENOSPC, "No space left on device"))

    def both():
        checkpoints.save(2, a_state(2), {"fails": True})
        {
            "wait": checkpoints.wait,
            "save": lambda: checkpoints.save(3, a_state(3), {}),
            "close": checkpoints.close,
        }[noticed_by]()

    with pytest.raises(OSError, match=r"step 2 was not saved in .*No space left.*GB are free"):
        both()
    assert calls
    assert checkpoints.steps() == [1]
    if noticed_by != "close":
        checkpoints.save(4, a_state(4), {}, wait=True)
        assert checkpoints.steps() == [4]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["4"]
        checkpoints.close()
