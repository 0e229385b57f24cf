"""Round trips are exact, layouts are the libraries' own, and an error leaves the old file."""

import sys
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save

from sd_jax.files import LazyTensor, open_tensors, write_safetensors, write_torch

RNG = np.random.default_rng(1)
ARRAYS = {
    "model.w": RNG.normal(size=(3, 5)).astype(np.float32),
    "model.half": RNG.normal(size=(4,)).astype(np.float16),
    "brain": RNG.normal(size=(2, 3)).astype(ml_dtypes.bfloat16),
    "brain.scalar": np.array(2.5, ml_dtypes.bfloat16),
    "fp8": RNG.normal(size=(5,)).astype(ml_dtypes.float8_e4m3fn),
    "fp8.wide": RNG.normal(size=(3,)).astype(ml_dtypes.float8_e5m2),
    "ids": np.array([[-(2**60), 3]]),
    "u16": np.array([65535], np.uint16),
    "u32": np.array([2**32 - 1], np.uint32),
    "u64": np.array([2**64 - 1], np.uint64),
    "i8": np.array([-128, 127], np.int8),
    "mask": np.array([True, False]),
    "step": np.array(7, np.int32),
    "nothing": np.zeros((3, 0, 2), np.float64),
    "nan": np.array([np.nan, -np.inf, -0.0], np.float32),
    "größe/\n\x01": np.array([1], np.uint8),
}


def lazy(name, array):
    return LazyTensor(name, array.shape, array.dtype, lambda: array)


ENTRIES = [lazy(name, array) for name, array in ARRAYS.items()]
WRITERS = pytest.mark.parametrize("write", [write_safetensors, write_torch])


def same_bytes(tensors, arrays=ARRAYS):
    assert set(tensors) == set(arrays)
    for name, array in arrays.items():
        values = tensors[name].read()
        assert (values.dtype, values.shape) == (array.dtype, array.shape), name
        assert values.tobytes() == array.tobytes(), name


@pytest.mark.parametrize("name", ["x.safetensors", "x.ckpt"])
def test_round_trip_is_exact(tmp_path, name):
    path = tmp_path / name
    (write_safetensors if name.endswith("s") else write_torch)(path, ENTRIES)
    same_bytes(open_tensors(path))


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}])
def test_safetensors_bytes_equal_the_library(tmp_path, metadata):
    path = tmp_path / "x.safetensors"
    write_safetensors(path, ENTRIES, metadata)
    assert path.read_bytes() == save(ARRAYS, metadata)


def test_safetensors_load_in_numpy_and_torch(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file as load_torch

    path = tmp_path / "x.safetensors"
    write_safetensors(path, ENTRIES, {"b": "2", "a": "1"})
    for name, tensor in load_torch(path).items():
        assert tuple(tensor.shape) == ARRAYS[name].shape
        raw = tensor.flatten().view(torch.uint8).numpy().tobytes()
        assert raw == ARRAYS[name].tobytes()
    with safe_open(path, "numpy") as file:
        assert file.metadata() == {"a": "1", "b": "2"}
    # The library's NumPy side does not know float8.
    arrays = {name: array for name, array in ARRAYS.items() if "float8" not in array.dtype.name}
    write_safetensors(path, [lazy(name, array) for name, array in arrays.items()])
    for name, array in load_file(path).items():
        assert array.dtype == arrays[name].dtype
        assert array.tobytes() == arrays[name].tobytes()


def test_torch_file_loads_with_weights_only(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "x.ckpt"
    write_torch(path, ENTRIES)
    state = torch.load(path, weights_only=True)["state_dict"]
    assert list(state) == list(ARRAYS)
    for name, tensor in state.items():
        assert str(tensor.dtype).removeprefix("torch.") == ARRAYS[name].dtype.name
        assert tuple(tensor.shape) == ARRAYS[name].shape
        raw = tensor.flatten().view(torch.uint8).numpy().tobytes()
        assert raw == ARRAYS[name].tobytes()


def test_torch_file_takes_arrays_that_are_read_only_or_shared(tmp_path):
    shared = np.arange(6, dtype=np.float32)
    shared.flags.writeable = False
    arrays = {"a": shared, "b": shared[::2], "c": shared.view(np.int32)}
    path = tmp_path / "x.ckpt"
    write_torch(path, [lazy(name, array) for name, array in arrays.items()])
    same_bytes(open_tensors(path), arrays)


def test_strided_arrays_are_written_in_c_order(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    path = tmp_path / "x.safetensors"
    write_safetensors(path, [lazy("t", array)])
    assert open_tensors(path)["t"].read().tolist() == array.tolist()


@WRITERS
@pytest.mark.parametrize("error", [RuntimeError("no more"), KeyboardInterrupt()])
def test_error_in_the_middle_keeps_the_old_file(tmp_path, write, error):
    def fail():
        raise error

    path = tmp_path / "x.safetensors"
    path.write_bytes(b"old")
    entries = [lazy("a", np.ones(9)), LazyTensor("b", (2,), np.dtype(np.float32), fail)]
    with pytest.raises(type(error)):
        write(path, entries)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_error_of_torch_save_keeps_the_old_file(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")

    def fail(state, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    path = tmp_path / "x.ckpt"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="disk full"):
        write_torch(path, ENTRIES)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@WRITERS
def test_new_file_replaces_the_old_one(tmp_path, write):
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")
    write(path, ENTRIES[:2])
    assert set(open_tensors(path)) == {"model.w", "model.half"}
    assert list(tmp_path.iterdir()) == [path]


def test_new_file_can_be_read_by_others_as_usual(tmp_path):
    usual = tmp_path / "usual"
    usual.touch()
    write_safetensors(tmp_path / "x.safetensors", [])
    assert (tmp_path / "x.safetensors").stat().st_mode == usual.stat().st_mode


@WRITERS
def test_all_bad_entries_are_named_before_anything_is_written(tmp_path, write):
    good = np.ones(2)
    entries = [
        lazy("twice", good),
        lazy("twice", good),
        lazy("complex", good.astype(np.complex64)),
        lazy("swapped", good.astype(">f4")),
        lazy("\ud800", good),
        lazy("__metadata__", good),
    ]
    with pytest.raises(ValueError, match="5 problems") as caught:
        write(tmp_path / "x", entries)
    for part in ("'twice' is passed 2 times", "dtype complex64", "dtype >f4", "__metadata__"):
        assert part in str(caught.value)
    assert not list(tmp_path.iterdir())


@WRITERS
@pytest.mark.parametrize("read", [np.ones(3, np.float32), np.ones(2, np.float64)])
def test_values_must_be_what_the_entry_states(tmp_path, write, read):
    entry = LazyTensor("a", (2,), np.dtype(np.float32), lambda: read)
    with pytest.raises(ValueError, match=r"'a' was read as .* expected float32 \(2,\)"):
        write(tmp_path / "x", [entry])
    assert not list(tmp_path.iterdir())


def test_metadata_must_be_text(tmp_path):
    with pytest.raises(ValueError, match=r"metadata 'by': '\\udc80', expected text"):
        write_safetensors(tmp_path / "x", [], {"by": "\udc80"})


@WRITERS
def test_folders_are_checked_first(tmp_path, write):
    with pytest.raises(ValueError, match="its folder does not exist"):
        write(tmp_path / "missing" / "x", ENTRIES)
    with pytest.raises(ValueError, match="it is a folder"):
        write(tmp_path, ENTRIES)


def test_torch_is_asked_for_by_name(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"\[torch\] extra"):
        write_torch(tmp_path / "x.ckpt", [])


def test_one_tensor_is_in_memory_at_a_time(tmp_path):
    size = 4 * 2**20

    def entry(name):
        return LazyTensor(name, (size,), np.dtype(np.uint8), lambda: np.zeros(size, np.uint8))

    tracemalloc.start()
    try:
        write_safetensors(tmp_path / "x.safetensors", [entry(f"t{i}") for i in range(12)])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < peak < 2.5 * size
