"""Whatever bytes a file holds, it opens or gives one of the two errors, and nothing else."""

import io
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from sd_jax.files import CorruptFileError, UnsafeFileError, open_tensors

torch = pytest.importorskip("torch")
FUZZ = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
EDITS = st.lists(st.tuples(st.integers(0, 2**32), st.integers(0, 255)), min_size=1, max_size=4)
SAFETENSORS = save(
    {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.ones(3, ml_dtypes.bfloat16),
        "c": np.zeros((0, 2), np.int64),
    },
    {"format": "pt"},
)


def saved_by_torch():
    buffer = io.BytesIO()
    base = torch.arange(12.0).reshape(3, 4)
    state = {"w": base.T, "half": base.half()[1:], "p": torch.nn.Parameter(base), "n": {"x": [1]}}
    torch.save({"state_dict": state, "when": np.float64(3), "size": base.shape}, buffer)
    return buffer.getvalue()


TORCH = saved_by_torch()
with zipfile.ZipFile(io.BytesIO(TORCH)) as _archive:
    RECORDS = {name: _archive.read(name) for name in _archive.namelist()}
# Pieces of pickles: every opcode, names that mean something, and small operands.
PIECES = st.one_of(
    st.binary(min_size=1, max_size=3),
    st.sampled_from(
        [
            *(bytes([code]) for code in range(256)),
            *(b"}", b"]", b")", b"(", b"t", b"R", b"s", b"u", b"b", b"a", b"e", b"0", b"Q"),
            *(b"q\x00", b"h\x00", b"q\x01", b"h\x01", b"\x94", b"\x93", b"\x81", b"\x92"),
            *(b"K\x00", b"K\x01", b"K\x04", b"K\x0c", b"K\x04\x85", b"K\x01\x85"),
            *(b"X\x07\x00\x00\x00storage", b"X\x01\x00\x00\x000", b"X\x03\x00\x00\x00cpu"),
            *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_parameter\n"),
            *(b"ctorch\nFloatStorage\n", b"ctorch\nSize\n", b"ccollections\nOrderedDict\n"),
            *(b"cpathlib\nPath\n", b"cposix\nsystem\n", b"c\\q\nx\n"),
            b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
            b"X\x03\x00\x00\x00cpuK\x0ctQ",
        ]
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def edited(data, edits):
    data = bytearray(data)
    for position, value in edits:
        data[position % len(data)] = value
    return bytes(data)


def torch_file(data_pkl):
    """Return a torch file with good checksums around any pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in RECORDS.items():
            archive.writestr(name, data_pkl if name.endswith("data.pkl") else content)
    return buffer.getvalue()


def check(path, content):
    """Return whether the file opens; its tensors must then keep what their entries state."""
    path.write_bytes(content)
    tensors, message = {}, ""
    try:
        tensors = open_tensors(path)
    except (CorruptFileError, UnsafeFileError) as error:
        message = str(error)
    if message:
        assert str(path) in message
        return False
    for tensor in tensors.values():
        assert tensor.nbytes <= len(content)
        try:
            values = tensor.read()
        except CorruptFileError:
            continue
        assert (values.shape, values.dtype) == (tensor.shape, tensor.dtype)
    return True


def test_files_are_good_before_they_are_damaged(folder):
    assert check(folder / "x.safetensors", SAFETENSORS)
    assert check(folder / "x.ckpt", TORCH)
    assert check(folder / "x.ckpt", torch_file(RECORDS["archive/data.pkl"]))


@FUZZ
@given(edits=EDITS)
def test_damaged_safetensors(folder, edits):
    check(folder / "x.safetensors", edited(SAFETENSORS, edits))


@FUZZ
@given(edits=EDITS)
def test_damaged_torch_file(folder, edits):
    check(folder / "x.ckpt", edited(TORCH, edits))


@FUZZ
@given(edits=EDITS)
def test_damaged_zip_directory(folder, edits):
    begin = TORCH.index(b"PK\x01\x02")
    check(folder / "x.ckpt", TORCH[:begin] + edited(TORCH[begin:], edits))


@FUZZ
@given(edits=EDITS)
def test_damaged_pickle(folder, edits):
    check(folder / "x.ckpt", torch_file(edited(RECORDS["archive/data.pkl"], edits)))


@FUZZ
@given(pieces=st.lists(PIECES, max_size=30))
def test_random_pickle(folder, pieces):
    check(folder / "x.ckpt", torch_file(b"\x80\x02}X\x01\x00\x00\x00w" + b"".join(pieces) + b"s."))


@FUZZ
@given(content=st.binary(max_size=200), name=st.sampled_from(["x.ckpt", "x.safetensors", "x"]))
def test_random_file(folder, content, name):
    check(folder / name, content)
