"""Hostile torch files: no code runs, the culprit is named, and time and memory stay small."""

import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest

import sd_jax.files
from sd_jax.files import CorruptFileError, UnsafeFileError, open_tensors

STORAGE = (
    b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
)
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def tensor(*, storage=STORAGE, offset=b"K\x00", shape=b"K\x04\x85", stride=b"K\x01\x85"):
    """Return the opcodes of a tensor, each part of which may be another opcode sequence."""
    hooks = b"ccollections\nOrderedDict\n)R"
    return REBUILD + b"(" + storage + offset + shape + stride + b"\x89" + hooks + b"tR"


def state(value, *, name="w"):
    return b"\x80\x02}" + text(name) + value + b"s."


def number(value):
    raw = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def torch_zip(path, data, *, records=None, compression=zipfile.ZIP_STORED):
    """Write a torch file around any data.pkl."""
    records = {"archive/data/0": struct.pack("<4f", 1, 2, 3, 4)} if records is None else records
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
        for name, content in records.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def target(tmp_path):
    return tmp_path / "model.ckpt"


@pytest.fixture
def canary(tmp_path):
    """Return a path that must not exist when the test ends."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "code in the file was run"


class Payload:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def system(canary):
    return Payload(os.system, f"touch {canary}")


def refused(path, *parts, error=UnsafeFileError):
    with pytest.raises(error) as caught:
        open_tensors(path)
    message = str(caught.value)
    for part in (str(path), *parts):
        assert part in message
    return message


def test_helpers_make_a_good_file(target):
    """Without this, every refusal below could be for the wrong reason."""
    tensors = open_tensors(torch_zip(target, state(tensor())))
    assert tensors["w"].read().tolist() == [1, 2, 3, 4]


def test_payload_is_live(tmp_path):
    path = tmp_path / "canary"
    pickle.loads(pickle.dumps(system(path)))
    assert path.exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_system_call(target, canary, protocol):
    data = pickle.dumps({"state_dict": {"w": system(canary)}}, protocol)
    message = refused(torch_zip(target, data), f"{os.system.__module__}.system", "data.pkl, offset")
    assert "never load it with weights_only=False" in message


def test_exec(target, canary):
    data = pickle.dumps({"w": Payload(exec, f"open({str(canary)!r}, 'w')")}, 2)
    refused(torch_zip(target, data), "__builtin__.exec")


def test_saved_by_torch(target, canary):
    torch = pytest.importorskip("torch")
    torch.save({"state_dict": {"w": torch.ones(1)}, "x": system(canary)}, target)
    refused(target, "posix.system")


@pytest.mark.parametrize("key", ["callbacks", "hyper_parameters"])
def test_call_deep_in_a_list_beside_good_weights(target, canary, key):
    data = pickle.dumps({key: {"a": [1, [[{"b": (system(canary),)}]]]}, "state_dict": {}}, 2)
    refused(torch_zip(target, data), "posix.system")


def test_payload_then_garbage(target, canary):
    data = pickle.dumps(system(canary), 2)[:-1] + b"\xff\x00garbage"
    refused(torch_zip(target, data), "posix.system")


def test_garbage_after_a_good_state(target):
    data = state(tensor()) + pickle.dumps(b"more")
    refused(torch_zip(target, data), "bytes after the end", error=CorruptFileError)


def test_name_alone_is_refused(target):
    refused(torch_zip(target, state(b"csubprocess\nPopen\n")), "subprocess.Popen")


def test_nested_zip(target, canary):
    inner = io.BytesIO()
    torch_zip(inner, pickle.dumps(system(canary), 2))
    with zipfile.ZipFile(target, "w") as outer:
        outer.writestr("archive/model.ckpt", inner.getvalue())
    refused(target, "holds 0 entries <root>/data.pkl")


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_bare_pickle(target, canary, protocol):
    target.write_bytes(pickle.dumps({"w": system(canary)}, protocol))
    refused(target, "weights_only=True")


def test_legacy_torch_file(target, canary):
    torch = pytest.importorskip("torch")
    torch.save({"w": system(canary)}, target, _use_new_zipfile_serialization=False)
    refused(target, "legacy torch file")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("builtins", "__import__"),
        ("torch", "load"),
        ("torch", "hub.load"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("collections", "OrderedDict.fromkeys"),
        ("pathlib", "os.system"),
        ("pytorch_lightning", "trainer.os.system"),
        ("omegaconf", ""),
        ("omegaconfusion", "Config"),
        ("numpy", "load"),
        ("numpy.core.multiarray", "fromfile"),
        ("functools", "partial"),
        ("copyreg", "_reconstructor"),
        ("sd_jax.files", "open_tensors"),
        ("torch", "QInt8Storage"),
        ("torch.storage", "_load_from_bytes"),
        # Python's opcode reader warns of such a backslash.
        ("\\q", "x"),
    ],
)
@pytest.mark.parametrize("form", ["global", "stack"])
def test_every_other_name_is_refused(target, module, name, form):
    if form == "global":
        opcodes = f"c{module}\n{name}\n".encode()
    else:
        opcodes = text(module) + text(name) + b"\x93"
    refused(torch_zip(target, state(opcodes)), repr(f"{module}.{name}"))


def test_names_cannot_be_computed(target):
    refused(torch_zip(target, state(b"K\x01K\x02\x93")), "two strings", error=CorruptFileError)


@pytest.mark.parametrize(
    ("opcodes", "expected"),
    [
        (b"\x82\x01", "EXT1"),
        (b"\x83\x01\x00", "EXT2"),
        (b"\x84\x01\x00\x00\x00", "EXT4"),
        (b"(" + text("id") + b"ios\nsystem\n", "INST ('os system')"),
        (b"(cpathlib\nPath\n" + text("a") + b"o", "OBJ"),
        (b"Pstorage\n", "PERSID"),
        (b"\x97", "NEXT_BUFFER"),
    ],
)
def test_other_opcodes_are_refused(target, opcodes, expected):
    refused(torch_zip(target, state(opcodes)), expected)


@pytest.mark.parametrize(
    ("opcodes", "expected"),
    [
        (text("os.system") + text("id") + b"\x85R", "a str is called"),
        (tensor() + b")R", "a TensorView is called"),
        (b"ctorch\nfloat32\n)R", "is called"),
        (STORAGE + b")R", "a _Storage is called"),
        (REBUILD + b"}b", "state is set on a _Function"),
        (tensor() + b"}b", "state is set on a TensorView"),
        (b"]}b", "state is set on a list"),
        (REBUILD + b")}" + text("a") + b"K\x01s\x92", "called with keywords"),
        (b"K\x01Q", "persistent id"),
        (b"(" + text("storage") * 5 + b"tQ", "persistent id"),
        (STORAGE.replace(text("storage"), text("module_")), "persistent id"),
        (STORAGE.replace(b"tQ", b"NtQ"), "persistent id"),
        (STORAGE.replace(text("0"), text("../0")), "'../0' is not a plain number or name"),
        (STORAGE.replace(text("0"), text("")), "not a plain number or name"),
        (STORAGE.replace(text("0"), b"K\x00"), "not a plain number or name"),
        (STORAGE.replace(b"FloatStorage", b"float32"), "persistent id"),
    ],
)
def test_what_is_not_allowed_inside(target, opcodes, expected):
    refused(torch_zip(target, state(opcodes)), expected)


@pytest.mark.parametrize(
    ("opcodes", "expected"),
    [
        (STORAGE.replace(text("0"), text("7")), "storage '7' is not in the file"),
        (STORAGE.replace(b"K\x04t", b"K\x05t"), "has 16 bytes, expected 5 x float32"),
        (STORAGE.replace(b"FloatStorage", b"HalfStorage"), "expected 4 x float16"),
        (STORAGE.replace(b"K\x04t", number(-4) + b"t"), "location and length"),
        (tensor(offset=b"K\x01"), "leaves its storage of 4 elements"),
        (tensor(shape=b"K\x05\x85"), "leaves its storage of 4 elements"),
        (tensor(shape=b"K\x02K\x02\x86", stride=b"K\x04K\x01\x86"), "leaves its storage"),
        (tensor(offset=number(-1)), "is no integer of 0 or more"),
        (tensor(offset=number(3), stride=number(-1) + b"\x85"), "is no integer of 0 or more"),
        (tensor(stride=number(2**70) + b"\x85"), "is no integer of 0 or more"),
        (tensor(stride=b"\x88\x85"), "is no integer of 0 or more"),
        (tensor(stride=b"K\x01K\x01\x86"), "1 axes but 2 strides"),
        (tensor(shape=b"K\x08\x85", stride=b"K\x00\x85"), "repeats the 4 elements"),
        (tensor(shape=number(-4) + b"\x85"), "an axis of length -4"),
        (tensor(shape=number(2**62) + b"\x85", stride=b"K\x00\x85"), "overflows 64 bits"),
        (tensor(shape=b"\x88\x85"), "a bool in its shape"),
        (tensor(shape=text("4") + b"\x85"), "a str in its shape"),
        (tensor(shape=b"]"), "not made of a storage"),
        (tensor(storage=b"N"), "not made of a storage"),
        (REBUILD + b")R", "TypeError"),
        (b"ctorch._utils\n_rebuild_parameter\nN\x88N\x87R", "a parameter holds no tensor"),
        (b"ccollections\nOrderedDict\n]\x85R", "TypeError"),
        (b"ctorch\nSize\n]\x85R", "not made of a tuple"),
        (b"h\x05", "KeyError"),
        (b"t", "IndexError"),
        (b"\x87", "IndexError"),
        (b"K\x01a", "appended to a str"),
        (b"}(K\x01u", "zip()"),
        (b"\x00", "at position 9, opcode"),
    ],
)
def test_contradictions_are_named(target, opcodes, expected):
    refused(torch_zip(target, state(opcodes)), expected, error=CorruptFileError)


def test_problems_of_all_tensors_come_in_one_error(target):
    bad = tensor(offset=b"K\x01")
    items = b"".join(text(f"w{i:02}") + bad for i in range(12))
    message = refused(
        torch_zip(target, b"\x80\x02}(" + items + b"u."), "12 problems", error=CorruptFileError
    )
    assert "and 2 more" in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"K\x01.", "holds int"),
        (b"", "pickle exhausted"),
        (b"}}.", "middle of an object"),
        (b"}(.", "middle of an object"),
        (b".", "middle of an object"),
    ],
)
def test_broken_ends(target, content, expected):
    refused(torch_zip(target, content), expected, error=CorruptFileError)


def test_compressed_entries_are_refused(target):
    records = {"archive/data/0": bytes(10**7)}
    torch_zip(target, state(tensor()), records=records, compression=zipfile.ZIP_DEFLATED)
    refused(target, "'archive/data/0' is compressed")


def test_encrypted_entries_are_refused(target):
    torch_zip(target, state(tensor()))
    data = bytearray(target.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    target.write_bytes(data)
    refused(target, "'archive/data/0' is encrypted")


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_duplicate_entries_are_refused(target):
    torch_zip(target, state(tensor()))
    with zipfile.ZipFile(target, "a") as archive:
        archive.writestr("archive/data/0", bytes(16))
    refused(target, "'archive/data/0' appears twice")


def test_overlapping_entries_are_refused(target):
    torch_zip(target, state(tensor()), records={"archive/data/0": bytes(64)})
    data = target.read_bytes()
    # The first entry, whose bytes come first, is made to reach into the second.
    size = struct.pack("<I", len(state(tensor())))
    begin = data.index(b"PK\x01\x02")
    grown = struct.pack("<I", len(state(tensor())) + 80)
    directory = data[begin:].replace(size + size, grown + grown, 1)
    target.write_bytes(data[:begin] + directory)
    refused(target, "overlap")


def test_two_roots_are_refused(target):
    torch_zip(target, state(tensor()), records={"other/data.pkl": b"N."})
    refused(target, "2 entries <root>/data.pkl")


def test_directory_that_names_another_entry(target):
    torch_zip(target, state(tensor()))
    data = target.read_bytes()
    at = data.rindex(b"archive/data/0")
    target.write_bytes(data[:at] + b"archive/data/1" + data[at + 14 :])
    refused(target, "'archive/data/1' is not at offset", error=CorruptFileError)


def test_checksum_of_the_pickle(target):
    torch_zip(target, state(tensor()))
    target.write_bytes(target.read_bytes().replace(text("w"), text("v")))
    refused(target, "data.pkl does not match its checksum", error=CorruptFileError)


def test_big_endian_files_are_refused(target):
    records = {"archive/data/0": bytes(16), "archive/byteorder": b"big"}
    refused(torch_zip(target, state(tensor()), records=records), "byteorder")


def test_truncations_are_refused(target):
    torch_zip(target, state(tensor()))
    whole = target.read_bytes()
    for size in range(4, len(whole), 3):
        target.write_bytes(whole[:size])
        refused(target, "zip directory", error=CorruptFileError)


def nested(opcode, count, core=b")"):
    return core + opcode * count


BOMBS = {
    # A key whose hash would overflow the C stack, and one whose hash would take 2**200 steps.
    "deep key": b"\x80\x02}" + nested(b"\x85", 500_000) + b"K\x01s.",
    "wide key": b"\x80\x02}" + nested(b"q\x00h\x00\x86", 200) + b"K\x01s.",
    "deep list": state(b"]" * 10**6 + b"a" * (10**6 - 1)),
    "endless list": state(b"]q\x00h\x00a"),
    # An index for which the usual reader, written in C, allocates 32 GiB.
    "large memo": state(b"Nr\xff\xff\xff\x7f"),
    "large bytes": state(b"\x8e" + b"\xff" * 7 + b"\x0f"),
    "large bytearray": state(b"\x96" + b"\xff" * 7 + b"\x0f"),
    "large text": state(b"\x8d" + b"\xff" * 7 + b"\x0f"),
    # A shape whose text would have no end, and one with a million axes.
    "wide shape": state(tensor(shape=b"K\x01" + b"q\x00h\x00\x86" * 200)),
    "long shape": state(tensor(shape=b"(" + b"K\x01" * 10**6 + b"t")),
    "long stride": state(tensor(stride=b"(" + b"K\x01" * 10**6 + b"t")),
    "large stride": state(tensor(stride=b"\x8b\x00\x00\x00\x01" + b"\x7f" * 2**24 + b"\x85")),
    # The same long tuple asked for again and again.
    "copies": state(b"(" + b"K\x01" * 10**5 + b"tq\x00" + b"ctorch\nSize\nh\x00\x85R0" * 10**5),
    "long module": state(text("pathlib." + "x" * 10**7) + text("y") + b"\x93"),
    # A name of a megabyte, joined anew four thousand times.
    "names": state(
        text("pathlib." + "x" * 10**6) + b"q\x00(" + b"h\x00X\x01\x00\x00\x00y\x93" * 4000 + b"t"
    ),
    "long name": state(tensor(), name="x" * 10**7),
    "long key": state(tensor(storage=STORAGE.replace(text("0"), text("0" * 10**7)))),
}
OPEN_ALL = """
import json, resource, sys, time
from sd_jax.files import CorruptFileError, UnsafeFileError, open_tensors
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
found = {}
for path in sys.argv[1:]:
    start = time.process_time()
    try:
        open_tensors(path)
        message = ""
    except (CorruptFileError, UnsafeFileError) as error:
        message = str(error)
    found[path] = (message, time.process_time() - start)
# Not ru_maxrss, which a process inherits from the one that started it.
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps([found, int(status["VmHWM"].split()[0])]))
"""


def test_bombs_are_cheap(tmp_path):
    paths = {name: tmp_path / f"{name}.ckpt" for name in BOMBS}
    for name, data in BOMBS.items():
        torch_zip(paths[name], data)
    # In a process of its own: a crash is seen, memory is measured and limited.
    process = subprocess.run(
        [sys.executable, "-c", OPEN_ALL, *paths.values()],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(sd_jax.files.__file__).parents[2],
    )
    assert process.returncode == 0, process.stderr[-2000:]
    found, peak_kib = json.loads(process.stdout)
    for name, path in paths.items():
        message, seconds = found[str(path)]
        assert message, f"{name} was opened"
        assert len(message) < 1000, name
        assert seconds < 10, name
    assert peak_kib < 1.5 * 2**20


@pytest.mark.parametrize(
    "data",
    [
        # Dicts that each hold the last one twice: 2**60 paths.
        b"\x80\x02}q\x00"
        + (b"0}" + text("a") + b"h\x00s" + text("b") + b"h\x00sq\x00") * 60
        + b".",
        # A dict that holds itself.
        b"\x80\x02}q\x00" + text("a") + b"h\x00s.",
        b"\x80\x02" + b"}X\x01\x00\x00\x00a" * 5000 + b"}" + b"s" * 5000 + b".",
    ],
    ids=["doubled", "itself", "deep"],
)
def test_endless_dicts_are_refused(target, data):
    refused(torch_zip(target, data), "or hold each other without end")


def test_too_many_opcodes(target, monkeypatch):
    monkeypatch.setattr("sd_jax.files.pickle_machine.MAX_OPCODES", 1000)
    refused(torch_zip(target, state(b"N0" * 1000 + b"N")), "more than 1000 opcodes")


def test_too_large_a_pickle(target, monkeypatch):
    monkeypatch.setattr("sd_jax.files.pickle_file.MAX_PICKLE_BYTES", 1000)
    refused(torch_zip(target, state(b"N0" * 1000 + b"N")), "has 2012 bytes, expected at most 1000")


def test_too_many_entries(target, monkeypatch):
    monkeypatch.setattr("sd_jax.files.pickle_file.MAX_ENTRIES", 10)
    items = b"".join(text(f"{i}") + b"N" for i in range(20))
    refused(torch_zip(target, b"\x80\x02}(" + items + b"u."), "more than 10 entries")


def test_messages_are_safe_for_a_terminal(target):
    message = refused(torch_zip(target, state(b"c\x1b[2Jos\nsystem\n")), "os.system")
    assert re.search(r"[\x00-\x09\x0b-\x1f\x7f]", message) is None


def test_crc_of_helpers_is_real(target):
    """The checksum tests mean nothing if the helper's files carry none."""
    data = state(tensor())
    with zipfile.ZipFile(torch_zip(target, data)) as archive:
        assert zlib.crc32(data) == archive.getinfo("archive/data.pkl").CRC
