"""Damaged checkpoints: read rightly or named, never read wrongly."""

from __future__ import annotations

import gc
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from sd_jax.training.checkpoints import CheckpointDamaged, Checkpoints

# Where one read fails Orbax closes its event loop, and TensorStore's other reads then call into it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

OLD, NEW = 10, 20


@pytest.fixture(autouse=True)
def _nothing_left_to_later_tests():
    yield
    gc.collect()


def make_state(seed):
    kernel, bias = (jax.random.normal(jax.random.key(seed), shape) for shape in ((64, 48), (7,)))
    return {"step": jnp.int32(seed), "params": {"kernel": kernel, "bias": bias}}


def abstract():
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding),
        make_state(0),
    )


def is_equal(state, other):
    return all(
        np.array_equal(ours, theirs)
        for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(other), strict=True)
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Returns a folder of two checkpoints, which no test changes."""
    folder = tmp_path_factory.mktemp("written")
    with Checkpoints(folder) as checkpoints:
        for step in (OLD, NEW):
            checkpoints.save(step, make_state(step), {"step": step, "text": "a note"})
    return folder


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / "checkpoints")


def outcome(folder):
    """Returns whether the newest was refused; what was read must be what was written."""
    with Checkpoints(folder) as checkpoints:
        try:
            found = checkpoints.restore(abstract())
            assert found is not None
        except CheckpointDamaged as error:
            text = str(error)
            assert f"{folder}: step {NEW} is damaged (" in text
            assert "--config.on_damaged_checkpoint=previous" in text
            assert len(text) < 1500
            return True
    step, state, meta = found
    assert (step, meta) == (NEW, {"step": NEW, "text": "a note"})
    assert is_equal(state, make_state(NEW))
    return False


def files_of(folder):
    return sorted(path for path in (folder / str(NEW)).rglob("*") if path.is_file())


def test_every_file_with_a_flipped_byte(folder, rng):
    assert not outcome(folder)
    refused = {}
    for path in files_of(folder):
        content = path.read_bytes()
        name = path.relative_to(folder / str(NEW))
        places = {0, len(content) // 3, len(content) - 1, *rng.integers(len(content), size=5)}
        for place in places:
            for mask in (0x01, 0x80):
                damaged = bytearray(content)
                damaged[place] ^= mask
                path.write_bytes(damaged)
                refused.setdefault(name, []).append(outcome(folder))
        path.write_bytes(content)
    assert not outcome(folder)
    # What it is read from goes unnoticed nowhere; the writers' own indices are not read again.
    by_name = {name.as_posix(): results for name, results in refused.items()}
    for name in ("meta/metadata", "state/manifest.ocdbt"):
        assert all(by_name[name])
    values = max(
        (name for name in by_name if "/d/" in name),
        key=lambda name: (folder / str(NEW) / name).stat().st_size,
    )
    assert sum(by_name[values]) > len(by_name[values]) // 2


@pytest.mark.parametrize("harm", ["half", "emptied", "removed"])
def test_every_file_cut_or_gone(folder, harm):
    refused = []
    for path in files_of(folder):
        content = path.read_bytes()
        if harm == "removed":
            path.unlink()
        else:
            path.write_bytes(content[: len(content) // 2 if harm == "half" else 0])
        refused.append(outcome(folder))
        path.write_bytes(content)
    assert sum(refused) >= 4
    assert not outcome(folder)


@pytest.mark.parametrize("part", ["state", "meta", "."])
def test_a_part_of_the_folder_gone(folder, part):
    gone = folder / str(NEW) / part
    shutil.rmtree(gone)
    if part == ".":
        gone.parent.mkdir(exist_ok=True)
        (folder / str(NEW)).mkdir(exist_ok=True)
    assert outcome(folder)


def spoil(folder, step):
    largest = max(
        (path for path in (folder / str(step)).rglob("*") if path.is_file()),
        key=lambda path: path.stat().st_size,
    )
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def test_the_previous_one_is_used_only_when_asked_for(folder):
    spoil(folder, NEW)
    with Checkpoints(folder) as checkpoints:
        for _ in range(2):
            with pytest.raises(CheckpointDamaged, match=f"step {NEW} is damaged"):
                checkpoints.restore(abstract())
        assert checkpoints.steps() == [OLD, NEW]
        with pytest.warns(UserWarning, match=f"step {NEW} is damaged .*trying the one before"):
            found = checkpoints.restore(abstract(), on_damage="previous")
        assert found is not None
        assert (found[0], found[2]["step"]) == (OLD, OLD)
        assert is_equal(found[1], make_state(OLD))
        assert checkpoints.steps() == [OLD]
        # The run comes by the same step again; what was damaged is still there to look at.
        checkpoints.save(NEW, make_state(NEW), {}, wait=True)
        assert checkpoints.steps() == [OLD, NEW]
        assert is_equal(checkpoints.restore(abstract())[1], make_state(NEW))  # type: ignore[index]
    spoil(folder, NEW)
    with Checkpoints(folder) as checkpoints, pytest.warns(UserWarning, match="damaged"):
        checkpoints.restore(abstract(), on_damage="previous")
    names = sorted(path.name for path in folder.iterdir())
    assert names == [str(OLD), f"{NEW}.damaged", f"{NEW}.damaged1"]


def test_no_good_one_is_an_error_and_nothing_is_moved(folder):
    spoil(folder, OLD)
    spoil(folder, NEW)
    with Checkpoints(folder) as checkpoints, warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        with pytest.raises(CheckpointDamaged, match="no checkpoint is good") as error:
            checkpoints.restore(abstract(), on_damage="previous")
        assert f"step {OLD} is" in str(error.value)
        assert f"step {NEW} is" in str(error.value)
        assert checkpoints.steps() == [OLD, NEW]


def test_a_fault_of_the_machine_is_not_taken_for_damage(folder, monkeypatch):
    with Checkpoints(folder) as checkpoints:

        def restore(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(ocp.StandardCheckpointHandler, "restore", restore)
        with pytest.raises(PermissionError):
            checkpoints.restore(abstract(), on_damage="previous")
        assert checkpoints.steps() == [OLD, NEW]


def test_the_damaged_array_is_named(folder, monkeypatch):
    """Orbax's own checks are passed by, as for damage before its files were written."""
    true = ocp.StandardCheckpointHandler.restore

    def restore(*args, **kwargs):
        state = true(*args, **kwargs)
        state["params"]["kernel"] = state["params"]["kernel"].at[63, 47].add(1e-6)
        return state

    monkeypatch.setattr(ocp.StandardCheckpointHandler, "restore", restore)
    with (
        Checkpoints(folder) as checkpoints,
        pytest.raises(CheckpointDamaged, match=r"altered: params/kernel\)"),
    ):
        checkpoints.restore(abstract())
