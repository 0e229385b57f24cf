from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

from sd_jax.training.mesh import (
    AXES,
    MeshConfig,
    batch_sharding,
    describe_batch,
    global_batch,
    make_mesh,
    process_share,
    replicated,
)
from tests.sd_jax.training.device_process import run_on_devices


@dataclasses.dataclass(frozen=True)
class FakeDevice:
    """What `make_mesh` reads of a device; `slice_index` is the machine, as jax has it for GPUs."""

    id: int
    process_index: int
    slice_index: int = 0
    platform: str = "cpu"
    device_kind: str = "fake"


@dataclasses.dataclass(frozen=True)
class FakeTPU(FakeDevice):
    """A chip of a TPU v4, with its place in the grid."""

    platform: str = "tpu"
    device_kind: str = "TPU v4"
    coords: tuple[int, ...] = (0, 0, 0)
    core_on_chip: int = 0


def fake_devices(processes: int, each: int, machines: bool = False) -> list[FakeDevice]:
    return [
        FakeDevice(process * each + index, process, process if machines else 0)
        for process in range(processes)
        for index in range(each)
    ]


def abstract_mesh(*shape: int) -> AbstractMesh:
    return AbstractMesh(shape, AXES, axis_types=(AxisType.Auto,) * 3)


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (MeshConfig(), (8, 1, 1)),
        (MeshConfig(data=1, fsdp=-1), (1, 8, 1)),
        (MeshConfig(data=-1, fsdp=2, tensor=2), (2, 2, 2)),
        (MeshConfig(data=2, fsdp=4, tensor=1), (2, 4, 1)),
    ],
)
def test_the_rest_of_the_devices_goes_to_minus_one(config, shape) -> None:
    mesh = make_mesh(config, fake_devices(1, 8))
    assert tuple(mesh.shape.items()) == tuple(zip(AXES, shape, strict=True))
    assert mesh.axis_types == (AxisType.Auto,) * 3


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (MeshConfig(data=3), ["data=3 x fsdp=1 x tensor=1 needs 3 devices", "8 fake devices"]),
        (MeshConfig(data=4, fsdp=4), ["needs 16 devices", "in 2 processes", "-1"]),
        (MeshConfig(fsdp=3), ["8 is no multiple of 3"]),
        (MeshConfig(data=-1, fsdp=-1), ["data and fsdp are -1"]),
        (MeshConfig(data=0, tensor=-2), ["data is 0", "tensor is -2"]),
    ],
)
def test_sizes_that_do_not_fit_the_devices_are_named(config, words) -> None:
    with pytest.raises(ValueError, match="mesh") as caught:
        make_mesh(config, fake_devices(2, 4))
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("machines", [False, True])
@pytest.mark.parametrize(
    ("config", "processes", "shares"),
    [
        (MeshConfig(), 4, [(0, 4), (1, 4), (2, 4), (3, 4)]),
        (MeshConfig(data=1, fsdp=-1), 4, [(0, 4), (1, 4), (2, 4), (3, 4)]),
        (MeshConfig(data=2, fsdp=4, tensor=2), 4, [(0, 4), (1, 4), (2, 4), (3, 4)]),
        # The tensor axis spans two processes, then all four.
        (MeshConfig(data=2, fsdp=1, tensor=8), 4, [(0, 2), (0, 2), (1, 2), (1, 2)]),
        (MeshConfig(data=1, fsdp=1, tensor=16), 4, [(0, 1)] * 4),
    ],
)
def test_processes_load_contiguous_parts_in_order(config, processes, shares, machines) -> None:
    devices = fake_devices(processes, 4, machines)
    # As jax lists the devices of several machines in no promised order.
    mesh = make_mesh(config, devices[::-1])
    assert [process_share(mesh, 32, process) for process in range(processes)] == shares


@pytest.mark.parametrize(
    ("config", "wired"), [(MeshConfig(data=16), False), (MeshConfig(data=8, fsdp=2), True)]
)
def test_tpus_keep_their_own_order_unless_it_tears_rows_apart(config, wired) -> None:
    # A grid of 4 x 4 chips, of which each process has 2 x 2.
    devices = [
        FakeTPU(4 * y + x, process_index=2 * (y // 2) + x // 2, coords=(x, y, 0))
        for y in range(4)
        for x in range(4)
    ]
    mesh = make_mesh(config, devices)
    owners = [device.process_index for device in mesh.devices.flat]
    assert (owners != sorted(owners)) == wired
    assert process_share(mesh, 32, 0)[1] == 4


def test_a_tensor_axis_that_cuts_processes_unevenly_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tensor=2 cuts unevenly .* 3 devices each"):
        make_mesh(MeshConfig(tensor=2), fake_devices(2, 3))


def test_a_process_without_devices_of_the_mesh_is_named() -> None:
    mesh = make_mesh(MeshConfig(), fake_devices(2, 4))
    with pytest.raises(ValueError, match="process 5 holds no"):
        process_share(mesh, 8, 5)


@pytest.mark.parametrize(("batch_size", "accumulation"), [(12, 1), (0, 1), (16, 4), (16, 0)])
def test_batches_that_do_not_divide_are_refused(batch_size, accumulation) -> None:
    with pytest.raises(ValueError, match=r"4 data x 2 fsdp shards .* choose a multiple of"):
        describe_batch(abstract_mesh(4, 2, 1), batch_size, accumulation)


def test_the_refusal_offers_the_nearest_size() -> None:
    with pytest.raises(ValueError, match=r"batch of 30 .* multiple of 16, such as 32"):
        describe_batch(abstract_mesh(4, 2, 1), 30, 2)


def test_the_split_of_the_batch_in_words() -> None:
    assert describe_batch(abstract_mesh(4, 2, 1), 32, 2) == (
        "batch 32 = 4 data x 2 fsdp shards x 4 examples on each device, in 2 microbatches of 2"
    )
    assert "2 tensor devices share" in describe_batch(abstract_mesh(2, 2, 2), 32)


def test_rows_go_over_data_and_fsdp() -> None:
    mesh = abstract_mesh(4, 2, 3)
    assert batch_sharding(mesh).shard_shape((32, 8, 3)) == (4, 8, 3)
    assert replicated(mesh).shard_shape((32, 8)) == (32, 8)


def test_a_batch_of_one_process_keeps_values_and_leaves_lists_out() -> None:
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    local = {"image": np.arange(12.0, dtype=np.float32).reshape(4, 3), "names": ["a"] * 4}
    batch = global_batch(mesh, local, 4)
    assert list(batch) == ["image"]
    np.testing.assert_array_equal(batch["image"], local["image"])
    assert batch["image"].sharding == batch_sharding(mesh)


def test_all_arrays_with_wrong_rows_are_named() -> None:
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    local = {"image": np.zeros((3, 2)), "masks": np.zeros(()), "fine": np.zeros(4)}
    with pytest.raises(ValueError, match="expected 4 rows") as caught:
        global_batch(mesh, local, 4)
    assert "image" in str(caught.value)
    assert "masks" in str(caught.value)
    assert "fine" not in str(caught.value)


def test_two_processes_load_their_rows() -> None:
    shapes = [(-1, 1, 1), (2, 2, 2), (1, 1, 8)]
    first, second = run_on_devices("mesh_script.py", shapes, devices=4, processes=2)
    total = float(sum(row * row for row in range(16)))
    low, high, every = list(range(8)), list(range(8, 16)), list(range(16))
    assert first == [[0, 2, low, total], [0, 2, low, total], [0, 1, every, total]]
    assert second == [[1, 2, high, total], [1, 2, high, total], [0, 1, every, total]]
