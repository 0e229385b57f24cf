"""A process of the checkpoint tests: `python checkpoint_process.py TASK FOLDER ...`.

Run apart from pytest, as it is killed, runs out of space, or has eight devices.
"""

from __future__ import annotations

import resource
import signal
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sd_jax.training.checkpoints import Checkpoints
from sd_jax.training.integrity import checksums

AXES = ("data", "fsdp")


def a_state(step, shape=(512, 1024)):
    """Returns a state that follows from the step alone."""
    values = jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)
    return {
        "step": jnp.int32(step),
        "params": {str(index): values * (step + index / 7) for index in range(4)},
    }


def on_mesh(devices, sizes, spec):
    """Returns the sharding of every array of the state."""
    mesh = Mesh(np.array(jax.devices()[:devices]).reshape(sizes), AXES)

    def of(leaf):
        return NamedSharding(mesh, PartitionSpec(*spec) if leaf.ndim else PartitionSpec())

    return jax.tree.map(of, a_state(0))


def abstract(shardings=None):
    state = a_state(0)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
        shardings or jax.tree.map(lambda leaf: leaf.sharding, state),
    )


def check(folder):
    """Prints the steps, after comparing every array of each with what it must be."""
    with Checkpoints(folder, keep_last=3) as checkpoints:
        for step in checkpoints.steps():
            found = checkpoints.restore(abstract(), step=step)
            assert found is not None
            assert found[2] == {"step": step}
            for ours, theirs in zip(
                jax.tree.leaves(found[1]), jax.tree.leaves(a_state(step)), strict=True
            ):
                np.testing.assert_array_equal(ours, theirs)
        print("steps", *checkpoints.steps())


def save_for_ever(folder):
    """Saves step after step, from the newest on, and says which are committed."""
    with Checkpoints(folder, keep_last=3) as checkpoints:
        step = max(checkpoints.steps(), default=0)
        while True:
            step += 1
            checkpoints.save(step, a_state(step), {"step": step})
            print("started", step, flush=True)
            checkpoints.wait()
            print("committed", step, flush=True)


def disk_full(folder):
    """Prints the errors of saves that do not fit; then one fits."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(folder, keep_last=1) as checkpoints:
        checkpoints.save(1, a_state(1), {"step": 1}, wait=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        for step in (2, 3):
            try:
                checkpoints.save(step, a_state(step), {"step": step})
                checkpoints.wait()
            except OSError as error:
                print(error)
            print("left", *sorted(path.name for path in folder.iterdir()))
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        checkpoints.save(4, a_state(4), {"step": 4}, wait=True)
    check(folder)


def meshes(folder):
    """Saves on one mesh and restores on others, with the same checksums."""
    wide = on_mesh(8, (4, 2), ("data", "fsdp"))
    with Checkpoints(folder) as checkpoints:
        state = jax.device_put(a_state(5), wide)
        checkpoints.save(5, state, {"step": 5}, wait=True)
        for devices, sizes, spec in (
            (8, (2, 4), ("fsdp", "data")),
            (4, (1, 4), (None, "fsdp")),
            (2, (2, 1), ("data",)),
            (1, (1, 1), ()),
            (8, (8, 1), ()),
        ):
            shardings = on_mesh(devices, sizes, spec)
            found = checkpoints.restore(abstract(shardings))
            assert found is not None
            for ours, theirs, sharding in zip(
                *map(jax.tree.leaves, (found[1], a_state(5), shardings)), strict=True
            ):
                np.testing.assert_array_equal(ours, theirs)
                assert ours.sharding == sharding
            assert checksums(found[1]) == checksums(state)
            # A state of another mesh is the same state.
            checkpoints.save(5, found[1], {"step": 5}, wait=True)
            print("read on", devices)


def two_processes(folder, address, process_id):
    """Both save, restore on another mesh, and take the previous one when a file is damaged."""
    jax.distributed.initialize(address, num_processes=2, process_id=int(process_id))
    shapes = jax.eval_shape(lambda: a_state(0))
    rows, columns = on_mesh(4, (2, 2), (AXES,)), on_mesh(4, (4, 1), (None, "data"))
    make = jax.jit(a_state, static_argnums=0, out_shardings=rows)
    wanted, same = (
        jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            shardings,
        )
        for shardings in (columns, rows)
    )
    with Checkpoints(folder) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, make(step), {"step": step}, wait=True)
        bad = make(3)
        bad["params"]["2"] = bad["params"]["2"].at[511, 1023].set(jnp.nan)
        try:
            checkpoints.save(3, bad, {})
        except ValueError as error:
            print("params/2;" in str(error))
        found = checkpoints.restore(wanted)
        assert found is not None
        print(found[0], checksums(found[1]) == checksums(make(2)))
        multihost_utils.sync_global_devices("before damage")
        if process_id == "0":
            # Where each process reads its own rows, the other finds nothing wrong.
            for path in (folder / "2" / "state").glob("ocdbt.process_1/d/*"):
                path.write_bytes(path.read_bytes()[:100])
        multihost_utils.sync_global_devices("after damage")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = checkpoints.restore(same, on_damage="previous")
        assert found is not None
        reason = str(caught[0].message).partition(" is damaged (")[2]
        print(
            len(caught),
            reason.partition(":")[0],
            found[0],
            checksums(found[1]) == checksums(make(1)),
        )
        checkpoints.save(2, make(2), {"step": 2}, wait=True)
        print("steps", *checkpoints.steps())


if __name__ == "__main__":
    tasks = (check, save_for_ever, disk_full, meshes, two_processes)
    task = {f.__name__: f for f in tasks}[sys.argv[1]]
    task(Path(sys.argv[2]), *sys.argv[3:])
