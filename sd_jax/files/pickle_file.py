"""A reader of torch zip files (`.ckpt`, `.pt`, `.pth`, `.bin`) that cannot run code.

A torch file is an uncompressed zip: `<root>/data.pkl` is a pickle of the object, in which each
tensor is a call of `torch._utils._rebuild_tensor_v2` on a storage, and `<root>/data/<key>` holds
the bytes of one storage.

Pickles are programs. `_Machine` runs their opcodes on plain data: it has no way to import a name
or to call anything but the few functions in `_CALLS`, so a name in a pickle is only ever a name.
Names of harmless bookkeeping (Lightning's callbacks, omegaconf's containers) become `_Inert`
marks; any other name is refused at once. Python's own Unpickler is not used, since even with a
strict `find_class` a few bytes make it allocate any amount of memory or overflow the C stack.
"""

from __future__ import annotations

import math
import pickletools
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from sd_jax.files.tensors import (
    RESAVE,
    CorruptFileError,
    LazyTensor,
    UnsafeFileError,
    is_text,
    lazy_values,
    problem_report,
    read_values,
    shape_problem,
    shown,
)

MAX_PICKLE_BYTES = 64_000_000
MAX_OPCODES = 4_000_000
MAX_ENTRIES = 500_000
MAX_NAME = 1000
_DTYPES: dict[str, np.dtype] = {
    **{
        name: np.dtype(name)
        for name in (
            *("float64", "float32", "float16", "complex64", "complex128", "bool"),
            *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
        )
    },
    **{
        name: np.dtype(getattr(ml_dtypes, name))
        for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")
    },
}
_STORAGES = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
    "torch.ComplexFloatStorage": "complex64",
    "torch.ComplexDoubleStorage": "complex128",
    "torch.storage.UntypedStorage": "uint8",
}
# What training programs keep beside the weights. Nothing of it is needed, so nothing is built.
_INERT_FAMILIES = (
    *("pytorch_lightning", "lightning", "lightning_fabric", "lightning_utilities"),
    *("omegaconf", "datetime", "pathlib"),
)
_INERT_NAMES = {
    *("typing.Any", "argparse.Namespace", "collections.defaultdict", "torch.device"),
    *("numpy.dtype", "numpy.ndarray", "_codecs.encode"),
    *(
        f"numpy.{core}.multiarray.{name}"
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    ),
    *(
        f"{module}.{name}"
        for module in ("builtins", "__builtin__")
        for name in (
            *("bool", "bytes", "dict", "float", "frozenset", "int", "list", "long", "object"),
            *("set", "str", "tuple", "unicode"),
        )
    ),
}
_DAMAGED = "The file is damaged or was made by a faulty program: fetch or export it again"
_HOSTILE = f"Nothing of it was run; never load it with weights_only=False. {RESAVE}"


class _UnsafeError(Exception):
    """What a pickle asks for and may not have; becomes UnsafeFileError where the file is known."""


@dataclass(frozen=True)
class _Inert:
    name: str


@dataclass(frozen=True)
class _Function:
    name: str


@dataclass(frozen=True)
class _StorageType:
    dtype: np.dtype


@dataclass(frozen=True)
class _Record:
    """Bytes of the zip file; `crc` is 0 where the writer left the checksum out."""

    offset: int
    nbytes: int
    crc: int


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage as the pickle states it; only the types are checked so far."""

    record: _Record
    dtype: np.dtype
    offset: int
    shape: tuple[Any, ...]
    stride: tuple[Any, ...]


@dataclass(frozen=True)
class _Storage:
    record: _Record
    dtype: np.dtype


def read_torch_zip(path: Path) -> dict[str, LazyTensor]:
    """Return the tensors of a torch zip file by name, none of them read yet.

    The tensors are those of the object's "state_dict" if it has one, else of the object; dicts
    inside are flattened with ".", and whatever is no tensor is left out.

    Raises:
        UnsafeFileError: The file asks for anything but tensors and known bookkeeping.
        CorruptFileError: The file is cut short or contradicts itself.
    """
    records = _read_archive(path)
    data = _read_bytes(path, "data.pkl", records["data.pkl"])
    if records["data.pkl"].crc not in (0, zlib.crc32(data)):
        raise _corrupt(path, "data.pkl does not match its checksum")
    machine = _Machine(data, records)
    try:
        root = machine.run()
    except _UnsafeError as error:
        problem = f"data.pkl, offset {machine.position}: {error}"
        raise UnsafeFileError(problem_report(path, [problem], _HOSTILE)) from None
    # The machine runs whatever a file holds, so a broken pickle may fail in any of these ways.
    except (ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
        problem = f"data.pkl, offset {machine.position}: {type(error).__name__}: {error}"
        raise _corrupt(path, problem) from error
    return _lazy_tensors(path, root)


def _resolve(module: str, name: str) -> object:
    """Return the mark that stands for a global, which is never imported."""
    full = f"{module}.{name}"
    # A dotted name would reach attributes of attributes, as in "pathlib" "os.system".
    if len(full) <= MAX_NAME and name.isidentifier():
        if full in _CALLS:
            return _Function(full)
        if full in _STORAGES:
            return _StorageType(_DTYPES[_STORAGES[full]])
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if full in _INERT_NAMES or module.split(".")[0] in _INERT_FAMILIES:
            return _Inert(full)
    raise _UnsafeError(
        f"the pickle names {shown(full)}, which could run code; expected only tensors, containers "
        "and known training bookkeeping"
    )


def _rebuild_tensor(
    storage: Any, offset: Any, shape: Any, stride: Any, dtype: Any = None, metadata: Any = None
) -> _Tensor:
    if not (
        isinstance(storage, _Storage)
        and type(offset) is int
        and isinstance(shape, tuple)
        and isinstance(stride, tuple)
        and (dtype is None or isinstance(dtype, np.dtype))
    ):
        raise ValueError("a tensor is not made of a storage, an offset, a shape and a stride")
    if metadata:
        raise ValueError("a tensor is marked conjugate or negative; resolve it before saving")
    return _Tensor(storage.record, storage.dtype if dtype is None else dtype, offset, shape, stride)


def _rebuild_parameter(tensor: Any, grad: Any, hooks: Any) -> _Tensor:
    del grad, hooks
    if not isinstance(tensor, _Tensor):
        raise ValueError("a parameter holds no tensor")
    return tensor


def _size(lengths: Any) -> tuple[Any, ...]:
    # No copy: a pickle can ask for the same long size a million times.
    if not isinstance(lengths, tuple):
        raise ValueError("a torch.Size is not made of a tuple")
    return lengths


_CALLS = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": (
        lambda storage, offset, shape, stride, grad, hooks, metadata=None: _rebuild_tensor(
            storage, offset, shape, stride, None, metadata
        )
    ),
    # The form of the dtypes that have no storage class: float8, uint16, uint32, uint64.
    "torch._utils._rebuild_tensor_v3": (
        lambda storage, offset, shape, stride, grad, hooks, dtype, metadata=None: _rebuild_tensor(
            storage, offset, shape, stride, dtype, metadata
        )
    ),
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch.Size": _size,
    "collections.OrderedDict": lambda: {},
}


def _key(key: Any, position: int) -> str:
    """Return a dict key as text.

    A hostile nested tuple takes forever to hash, so only small scalars keep their meaning. The
    others are never the name of a tensor.
    """
    if isinstance(key, str):
        return key
    if isinstance(key, _Inert):
        return key.name
    if key is None or isinstance(key, float) or (isinstance(key, int) and abs(key) < 2**63):
        return repr(key)
    return f"<{type(key).__name__} {position}>"


class _Machine:
    """Runs a pickle's opcodes on plain data. `position` is the opcode being run."""

    def __init__(self, data: bytes, records: dict[str, _Record]):
        self.position = 0
        self._data = data
        self._records = records
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Return the object that the pickle describes."""
        with warnings.catch_warnings():
            # Bad backslashes in a name would warn; such a name is refused anyway.
            warnings.simplefilter("ignore", DeprecationWarning)
            for count, (opcode, argument, position) in enumerate(pickletools.genops(self._data)):
                self.position = position or 0
                if count >= MAX_OPCODES:
                    raise _UnsafeError(f"more than {MAX_OPCODES} opcodes")
                step = _STEPS.get(opcode.name)
                if step is None:
                    raise _UnsafeError(
                        f"opcode {opcode.name} ({shown(argument)}), which torch never writes"
                    )
                step(self, argument)
        if self.position + 1 != len(self._data):
            raise ValueError(f"{len(self._data) - self.position - 1} bytes after the end")
        if len(self._stack) != 1 or self._marks:
            raise ValueError("the pickle ends in the middle of an object")
        return self._stack[0]

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def pop(self, _: Any = None) -> Any:
        return self._stack.pop()

    def mark(self, _: Any) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def pop_mark(self, _: Any = None) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def tuple_of(self, count: int) -> None:
        if count > len(self._stack):
            raise IndexError("a tuple takes more items than there are")
        items = tuple(self._stack[-count:])
        del self._stack[-count:]
        self.push(items)

    def extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, _Inert):
            raise ValueError(f"items are appended to a {type(target).__name__}")

    def update(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[_key(key, len(target))] = value
        elif not isinstance(target, _Inert):
            raise ValueError(f"items are set in a {type(target).__name__}")

    def build(self, _: Any) -> None:
        """Drop the state of an object: an OrderedDict's attributes, or bookkeeping."""
        self.pop()
        target = self._stack[-1]
        if not isinstance(target, (dict, _Inert)):
            raise _UnsafeError(f"state is set on a {type(target).__name__}")

    def put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def memoize(self, _: Any) -> None:
        self.put(len(self._memo))

    def get(self, index: int) -> None:
        self.push(self._memo[index])

    def name(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.push(_resolve(module, name))

    def stack_name(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("a global is not named by two strings")
        self.push(_resolve(module, name))

    def call(self, _: Any) -> None:
        arguments, function = self.pop(), self.pop()
        if isinstance(function, _Inert):
            self.push(function)
        elif isinstance(function, _Function) and isinstance(arguments, tuple):
            self.push(_CALLS[function.name](*arguments))
        else:
            raise _UnsafeError(f"a {type(function).__name__} is called")

    def call_with_keywords(self, _: Any) -> None:
        keywords = self.pop()
        if keywords and not isinstance(self._stack[-2], _Inert):
            raise _UnsafeError("a function is called with keywords")
        self.call(None)

    def storage(self, _: Any) -> None:
        identity = self.pop()
        if not (isinstance(identity, tuple) and len(identity) == 5):
            raise _UnsafeError("a persistent id is not a storage of five parts")
        tag, kind, key, location, count = identity
        if not (isinstance(tag, str) and tag == "storage" and isinstance(kind, _StorageType)):
            raise _UnsafeError("a persistent id is not a storage")
        if not (isinstance(key, str) and re.fullmatch(r"\w[\w.-]{0,99}", key, re.ASCII)):
            raise _UnsafeError(f"storage key {shown(key)} is not a plain number or name")
        record = self._records.get(f"data/{key}")
        if not isinstance(location, str) or type(count) is not int or count < 0:
            raise ValueError(f"storage {key!r} has no valid location and length")
        if record is None:
            raise ValueError(
                f"storage {key!r} is not in the file (was it saved from meta tensors?)"
            )
        if record.nbytes // kind.dtype.itemsize != count:
            raise ValueError(
                f"storage {key!r} has {record.nbytes} bytes, expected {count} x {kind.dtype}"
            )
        self.push(_Storage(record, kind.dtype))


# Every opcode that protocols 2 to 5 write for plain data, and no other: no EXT, INST, OBJ, PERSID.
_STEPS: dict[str, Callable[[_Machine, Any], object]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, _: None),
    **dict.fromkeys(
        (
            *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
            *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
            *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        ),
        _Machine.push,
    ),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_SET": lambda machine, _: machine.push(_Inert("set")),
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_mark())),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "FROZENSET": lambda machine, _: machine.push(_Inert(f"set of {len(machine.pop_mark())}")),
    "APPEND": lambda machine, _: machine.extend([machine.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_mark()),
    "ADDITEMS": lambda machine, _: machine.extend(machine.pop_mark()),
    "SETITEM": lambda machine, _: machine.update([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.update(machine.pop_mark()),
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "NEWOBJ_EX": _Machine.call_with_keywords,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.storage,
}


def _read_archive(path: Path) -> dict[str, _Record]:
    """Return where each record of a torch zip file lies, by its name below the root folder."""
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            entries = zipfile.ZipFile(file).infolist()
        # All that zipfile raises on damaged input.
        except (
            zipfile.BadZipFile,
            struct.error,
            ValueError,
            NotImplementedError,
            OSError,
        ) as error:
            raise _corrupt(path, f"the zip directory is unreadable ({error})") from error
        records, problems = {}, []
        for entry in entries:
            problem = _entry_problem(entry)
            if entry.filename in records:
                problem = "appears twice"
            if problem:
                problems.append(f"zip entry {shown(entry.filename)} {problem}")
            else:
                records[entry.filename] = _locate(path, file, entry, size)
    problems += _overlap_problems(records)
    roots = [name[: -len("data.pkl")] for name in records if re.fullmatch("[^/]+/data.pkl", name)]
    if not problems and len(roots) != 1:
        problems.append(f"the zip holds {len(roots)} entries <root>/data.pkl, expected one")
    if problems:
        raise UnsafeFileError(problem_report(path, problems, RESAVE))
    below = {n[len(roots[0]) :]: record for n, record in records.items() if n.startswith(roots[0])}
    _check_header(path, below)
    return below


def _entry_problem(entry: zipfile.ZipInfo) -> str | None:
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        return "is compressed, which torch never does"
    if entry.flag_bits & 1:
        return "is encrypted, which torch never does"
    return None


def _locate(path: Path, file: BinaryIO, entry: zipfile.ZipInfo, size: int) -> _Record:
    """Return where an entry's bytes lie, from its own header in front of them."""
    # name and offset come from the directory; the header must agree, or two programs would
    # read two different files.
    name = entry.orig_filename.encode("utf-8" if entry.flag_bits & 0x800 else "cp437")
    offset = entry.header_offset
    if 0 <= offset <= size:
        file.seek(offset)
        head = file.read(30)
        if len(head) == 30 and head.startswith(b"PK\x03\x04"):
            name_length, extra_length = struct.unpack("<HH", head[26:30])
            begin = offset + 30 + name_length + extra_length
            if file.read(name_length) == name and begin + entry.file_size <= size:
                return _Record(begin, entry.file_size, entry.CRC)
    raise _corrupt(path, f"zip entry {shown(entry.filename)} is not at offset {offset}")


def _overlap_problems(records: dict[str, _Record]) -> list[str]:
    ordered = sorted(records.items(), key=lambda item: (item[1].offset, item[1].nbytes))
    return [
        f"zip entries {shown(name)} and {shown(next_name)} overlap"
        for (name, record), (next_name, next_record) in pairwise(ordered)
        if next_record.offset < record.offset + record.nbytes
    ]


def _check_header(path: Path, records: dict[str, _Record]) -> None:
    if records["data.pkl"].nbytes > MAX_PICKLE_BYTES:
        problem = f"data.pkl has {records['data.pkl'].nbytes} bytes, expected at most "
        raise UnsafeFileError(problem_report(path, [f"{problem}{MAX_PICKLE_BYTES}"], RESAVE))
    order = records.get("byteorder")
    # Files from before torch 2.1 do not say; they come from little-endian machines.
    if order is not None and _read_bytes(path, "byteorder", order, limit=16) != b"little":
        problem = "the byteorder record is not 'little'; expected a little-endian file"
        raise UnsafeFileError(problem_report(path, [problem], RESAVE))


def _read_bytes(path: Path, name: str, record: _Record, limit: int = MAX_PICKLE_BYTES) -> bytes:
    shape = (min(record.nbytes, limit),)
    return read_values(path, name, shape, np.dtype(np.uint8), record.offset).tobytes()


def _lazy_tensors(path: Path, root: object) -> dict[str, LazyTensor]:
    tree = root.get("state_dict", root) if isinstance(root, dict) else root
    if not isinstance(tree, dict):
        found = "a tensor without a name" if isinstance(tree, _Tensor) else type(tree).__name__
        raise _corrupt(path, f"the file holds {found}, expected a dict of tensors")
    tensors, problems = {}, []
    for name, tensor in _flatten(path, tree):
        problem = _view_problem(name, tensor)
        if name in tensors:
            problem = "appears twice once nested dicts are joined with '.'"
        if problem:
            problems.append(f"tensor {shown(name)} {problem}")
        else:
            tensors[name] = _lazy(path, name, tensor)
    if tree and not tensors and not problems:
        problems.append("the file holds no tensor, expected a dict of tensors")
    if problems:
        raise _corrupt(path, *problems)
    return tensors


def _flatten(path: Path, tree: dict[str, Any]) -> Iterator[tuple[str, _Tensor]]:
    """Yield the tensors in nested dicts; limits end those that hold each other."""
    stack = [("", iter(tree.items()))]
    for _ in range(MAX_ENTRIES):
        prefix, items = stack[-1]
        key, value = next(items, (None, None))
        if key is None:
            stack.pop()
            if not stack:
                return
        elif isinstance(value, (_Tensor, dict)):
            if len(prefix) + len(key) > MAX_NAME:
                break
            if isinstance(value, dict):
                stack.append((f"{prefix}{key}.", iter(value.items())))
            else:
                yield prefix + key, value
    problem = (
        f"the dicts hold more than {MAX_ENTRIES} entries or names of more than {MAX_NAME} "
        "characters, or hold each other without end"
    )
    raise UnsafeFileError(problem_report(path, [problem], RESAVE))


def _view_problem(name: str, tensor: _Tensor) -> str | None:
    """Return why a view cannot be read from its storage, or None."""
    if not is_text(name):
        return "has a name that is not valid Unicode"
    problem = shape_problem(tensor.shape, tensor.dtype.itemsize)
    if problem:
        return problem
    capacity = tensor.record.nbytes // tensor.dtype.itemsize
    numbers = (tensor.offset, *tensor.stride)
    if len(numbers) != len(tensor.shape) + 1:
        return f"has {len(tensor.shape)} axes but {len(tensor.stride)} strides"
    if any(type(number) is not int or not 0 <= number < 2**63 for number in numbers):
        return "has an offset or a stride that is no integer of 0 or more"
    place = f"offset {tensor.offset}, shape {tensor.shape} and stride {tensor.stride}"
    count = math.prod(tensor.shape)
    if count and tensor.offset + _span(tensor) > capacity:
        return f"has {place}, which leaves its storage of {capacity} elements"
    if count > capacity:
        return (
            f"has {place}, which repeats the {capacity} elements of its storage into {count}; "
            "save a contiguous copy"
        )
    return None


def _span(tensor: _Tensor) -> int:
    """Return the number of elements from a view's first to its last."""
    steps = zip(tensor.shape, tensor.stride, strict=True)
    return 1 + sum((length - 1) * step for length, step in steps)


def _lazy(path: Path, name: str, tensor: _Tensor) -> LazyTensor:
    if math.prod(tensor.shape) == 0:
        return lazy_values(path, name, tensor.shape, tensor.dtype, tensor.record.offset)
    return LazyTensor(name, tensor.shape, tensor.dtype, partial(_read_view, path, name, tensor))


def _read_view(path: Path, name: str, tensor: _Tensor) -> np.ndarray:
    """Return the values of a view as new memory in C order."""
    itemsize = tensor.dtype.itemsize
    contiguous = _is_contiguous(tensor)
    shape = tensor.shape if contiguous else (_span(tensor),)
    begin = tensor.record.offset + tensor.offset * itemsize
    values = read_values(path, name, shape, tensor.dtype, begin)
    if values.nbytes == tensor.record.nbytes and tensor.record.crc:
        found = zlib.crc32(values.reshape(-1).view(np.uint8).data)
        if found != tensor.record.crc:
            raise _corrupt(path, f"tensor {shown(name)} does not match its checksum")
    if contiguous:
        return values
    strides = [step * itemsize for step in tensor.stride]
    return np.lib.stride_tricks.as_strided(values, tensor.shape, strides).copy()


def _is_contiguous(tensor: _Tensor) -> bool:
    expected = 1
    for length, step in zip(reversed(tensor.shape), reversed(tensor.stride), strict=True):
        if length != 1 and step != expected:
            return False
        expected *= length
    return True


def _corrupt(path: Path, *problems: str) -> CorruptFileError:
    return CorruptFileError(problem_report(path, problems, _DAMAGED))
