"""Torch files give torch's own values, and bookkeeping beside the weights becomes inert."""

import argparse
import collections
import datetime
import enum
import pathlib
import sys
import tracemalloc
import types
import zipfile
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from sd_jax.files import CorruptFileError, UnsafeFileError, open_tensors

torch = pytest.importorskip("torch")


@pytest.fixture
def target(tmp_path):
    return tmp_path / "model.ckpt"


def raw(tensor):
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def check(path, expected):
    """Every tensor has the dtype, shape and bytes that torch gives it, in memory of its own."""
    tensors = open_tensors(path)
    assert list(tensors) == list(expected)
    for name, tensor in expected.items():
        values = tensors[name].read()
        assert values.dtype.name == str(tensor.dtype).removeprefix("torch."), name
        assert values.dtype == tensors[name].dtype
        assert values.shape == tuple(tensor.shape) == tensors[name].shape, name
        assert values.tobytes() == raw(tensor), name
        assert values.flags.owndata, name
        assert values.flags.writeable, name
        assert values.flags.c_contiguous, name


def test_values_equal_torch(target):
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) / 7
    tied = torch.randn(6)
    state = {
        "plain": base,
        "half": base.half(),
        "brain": base.bfloat16(),
        "transposed": base.permute(2, 0, 1),
        "brain.transposed": base.bfloat16().permute(2, 1, 0).contiguous().mT[1:],
        "slice": base[:, 1:, ::2],
        "row": base[1, 2],
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "tied.0": tied,
        "tied.1": tied,
        "tied.half": tied[3:],
        "parameter": torch.nn.Parameter(base),
        "frozen": torch.nn.Parameter(base, requires_grad=False),
        "scalar": torch.tensor(-7),
        "scalar.of": base[1, 1, 1],
        "empty": torch.empty(0, 3),
        "empty.of": base[:, 3:],
        "ones": base[:1, :1, 1:2],
        "bool": torch.tensor([True, False]),
        "int8": torch.tensor([-128], dtype=torch.int8),
        "uint8": torch.tensor([255], dtype=torch.uint8),
        "int16": torch.tensor([-2], dtype=torch.int16),
        "int32": torch.tensor([-3], dtype=torch.int32),
        "uint16": torch.tensor([65535], dtype=torch.uint16)[None].repeat(2, 2).mT,
        "double": base.double(),
        "complex": torch.tensor([1 + 2j]),
        "float8": base.to(torch.float8_e4m3fn)[1],
        "float8.wide": base.to(torch.float8_e5m2),
        "nan": torch.tensor([float("nan"), float("inf"), -0.0]),
    }
    torch.save(state, target)
    check(target, torch.load(target, weights_only=True))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_of_torch(target, protocol):
    state = {"a": torch.ones(2), "b": torch.zeros(1).half()}
    torch.save({"state_dict": state, "x": [b"\0", 2**70, 1.5, {1}]}, target,
               pickle_protocol=protocol)  # fmt: skip
    check(target, state)


def test_module_state_with_its_metadata(target):
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    torch.save(module.state_dict(), target)
    check(target, module.state_dict())


def test_state_dict_is_used_alone(target):
    other = torch.zeros(1)
    torch.save(
        {"ema": {"w": other}, "state_dict": {"w": torch.ones(3), "n": 5}, "epoch": 3}, target
    )
    check(target, {"w": torch.ones(3)})


def test_nested_dicts_are_joined_and_the_rest_is_left_out(target):
    one = torch.ones(1)
    torch.save(
        {
            "model": {"a": one, "deep": collections.OrderedDict(b=one)},
            "params": {0: one, "list": [one], "none": None},
            "w": one,
            "lr": 1e-4,
        },
        target,
    )
    check(target, dict.fromkeys(["model.a", "model.deep.b", "params.0", "w"], one))


def test_no_tensors_at_all(target):
    torch.save({}, target)
    assert open_tensors(target) == {}
    torch.save({"epoch": 3}, target)
    with pytest.raises(CorruptFileError, match="holds no tensor"):
        open_tensors(target)
    torch.save([torch.ones(3)], target)
    with pytest.raises(CorruptFileError, match="expected a tensor or a dict of tensors"):
        open_tensors(target)


def test_a_tensor_alone(target):
    torch.save(torch.arange(3.0), target)
    np.testing.assert_array_equal(open_tensors(target)["tensor"].read(), [0, 1, 2])


def test_equal_names_after_joining_are_refused(target):
    torch.save({"a": {"b": torch.ones(1)}, "a.b": torch.zeros(1)}, target)
    with pytest.raises(CorruptFileError, match=r"'a\.b' appears twice"):
        open_tensors(target)


class Mode(enum.Enum):
    MIN = "min"


@pytest.fixture
def bookkeeping(monkeypatch):
    """Return objects of classes that look like Lightning's and omegaconf's while they are saved."""

    def class_of(module, name, *bases):
        holder = sys.modules.get(module) or types.ModuleType(module)
        parent, _, child = module.rpartition(".")
        if parent:
            class_of(parent, "Parent")
            setattr(sys.modules[parent], child, holder)
        cls = type(name, bases, {"__module__": module})
        setattr(holder, name, cls)
        monkeypatch.setitem(sys.modules, module, holder)
        return cls

    callback = class_of("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
    attributes = class_of("lightning_fabric.utilities.data", "AttributeDict", dict)
    config = class_of("omegaconf.listconfig", "ListConfig", list)
    node = class_of("omegaconf.nodes", "AnyNode")
    state = node()
    state.__dict__ = {"_val": 3, "_parent": config([1, node()])}
    return {
        "callbacks": {callback: {"best": np.float64(0.5), "score": torch.tensor(1.0)}},
        "hyper_parameters": attributes(lr=1, betas=config([0.9, state]), deep=[{"x": (state,)}]),
        "omega": [config, state],
    }


def test_bookkeeping_becomes_inert(target, bookkeeping, monkeypatch):
    weights = {"w": torch.randn(2, 2).half()}
    more = {
        "any": Any,
        "args": argparse.Namespace(a=1),
        "when": datetime.datetime(2024, 1, 1, 12),
        "took": datetime.timedelta(1),
        "where": pathlib.PurePosixPath("a/b"),
        "device": torch.device("cpu"),
        "dtype": torch.bfloat16,
        "size": torch.Size([1, 2]),
        "table": collections.defaultdict(list, a=[1]),
        "set": {1, 2},
        "frozen": frozenset([1]),
        "array": np.arange(3),
        "numpy": np.float32(2),
        ("tuple", "key"): {(1, 2): 3},
        "types": [int, dict, list, str, tuple, object],
        "loop": [],
    }
    more["loop"].append(more["loop"])
    torch.save({**bookkeeping, **more, "state_dict": weights}, target)
    # The file can only be saved while the classes exist; no reader may need them.
    for name in [name for name in sys.modules if name.startswith(("pytorch_l", "lightn", "omega"))]:
        monkeypatch.delitem(sys.modules, name)
    before = set(sys.modules)

    check(target, weights)

    assert set(sys.modules) == before


def test_bookkeeping_cannot_pose_as_a_tensor(target, bookkeeping, monkeypatch):
    torch.save({"w": torch.ones(1), **bookkeeping}, target)
    for name in [name for name in sys.modules if name.startswith(("pytorch_l", "lightn", "omega"))]:
        monkeypatch.delitem(sys.modules, name)
    names = list(open_tensors(target))
    assert names == [
        "w",
        "callbacks.pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint.score",
    ]


def test_own_classes_are_refused_by_name(target):
    torch.save({"w": torch.ones(1), "mode": Mode.MIN}, target)
    with pytest.raises(UnsafeFileError, match=r"test_pickle_file\.Mode"):
        open_tensors(target)


def test_a_whole_module_is_refused_by_name(target):
    torch.save(torch.nn.Linear(1, 1), target)
    with pytest.raises(UnsafeFileError, match=r"torch\.nn\.modules\.linear\.Linear"):
        open_tensors(target)


def test_conjugate_views_are_refused(target):
    torch.save({"w": torch.tensor([1 + 2j]).conj()}, target)
    with pytest.raises(CorruptFileError, match="conjugate"):
        open_tensors(target)


def test_expanded_tensors_are_refused(target):
    torch.save({"w": torch.ones(1).expand(10**12)}, target)
    with pytest.raises(CorruptFileError, match=r"repeats the 1 elements of its storage into 10+;"):
        open_tensors(target)


def test_meta_tensors_are_refused(target):
    torch.save({"w": torch.ones(1, device="meta")}, target)
    with pytest.raises((CorruptFileError, UnsafeFileError)):
        open_tensors(target)


def test_flipped_bytes_of_values_are_found_by_the_checksum(target):
    torch.save({"w": torch.arange(1000.0), "t": torch.arange(6.0).reshape(2, 3).T}, target)
    data = bytearray(target.read_bytes())
    with zipfile.ZipFile(target) as archive:
        stored = archive.read("model/data/0")
    data[data.index(stored) + 2000] ^= 1
    target.write_bytes(data)
    tensors = open_tensors(target)
    with pytest.raises(CorruptFileError, match="tensor 'w' does not match its checksum"):
        tensors["w"].read()
    assert tensors["t"].read().shape == (3, 2)


def test_files_without_checksums_are_read(target):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.arange(100)}, target)
    finally:
        torch.serialization.set_crc32_options(True)
    with zipfile.ZipFile(target) as archive:
        assert {entry.CRC for entry in archive.infolist()} == {0}
    check(target, {"w": torch.arange(100)})


def test_file_that_shrinks_after_opening(target):
    torch.save({"w": torch.arange(1000.0)}, target)
    tensor = open_tensors(target)["w"]
    target.write_bytes(target.read_bytes()[:3000])
    with pytest.raises(CorruptFileError, match="before the end of 'w'"):
        tensor.read()


def test_opening_reads_no_data_and_reading_reads_one_tensor(target):
    size = 4 * 2**20
    state = {f"w{i}": torch.full((size,), i, dtype=torch.uint8) for i in range(8)}
    torch.save(state, target)
    tracemalloc.start()
    try:
        tensors = open_tensors(target)
        _, opening = tracemalloc.get_traced_memory()
        for i in range(8):
            assert tensors[f"w{i}"].read()[-1] == i
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert opening < 2**20
    assert size < peak < 1.5 * size


def test_bfloat16_is_that_of_ml_dtypes(target):
    torch.save({"w": torch.tensor([1.5], dtype=torch.bfloat16)}, target)
    assert open_tensors(target)["w"].dtype == np.dtype(ml_dtypes.bfloat16)
