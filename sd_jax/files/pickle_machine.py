"""An interpreter of pickles that knows tensors and nothing else.

Pickles are programs. `Machine` runs their opcodes on plain data: it has no way to import a name
or to call anything but the few functions in `_CALLS`, so a name in a pickle is only ever a name.
Names of harmless bookkeeping (Lightning's callbacks, omegaconf's containers) become `_Inert`
marks; any other name is refused at once. Python's own Unpickler is not used, since even with a
strict `find_class` a few bytes make it allocate any amount of memory or overflow the C stack.
"""

from __future__ import annotations

import pickletools
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from sd_jax.files.tensors import (
    shown,
)

MAX_OPCODES = 4_000_000
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


class RefusedError(Exception):
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
class Record:
    """Bytes of the zip file; `crc` is 0 where the writer left the checksum out."""

    offset: int
    nbytes: int
    crc: int


@dataclass(frozen=True)
class TensorView:
    """A view of a storage as the pickle states it; only the types are checked so far."""

    record: Record
    dtype: np.dtype
    offset: int
    shape: tuple[Any, ...]
    stride: tuple[Any, ...]


@dataclass(frozen=True)
class _Storage:
    record: Record
    dtype: np.dtype


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
    raise RefusedError(
        f"the pickle names {shown(full)}, which could run code; expected only tensors, containers "
        "and known training bookkeeping"
    )


def _rebuild_tensor(
    storage: Any, offset: Any, shape: Any, stride: Any, dtype: Any = None, metadata: Any = None
) -> TensorView:
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
    return TensorView(
        storage.record, storage.dtype if dtype is None else dtype, offset, shape, stride
    )


def _rebuild_parameter(tensor: Any, grad: Any, hooks: Any) -> TensorView:
    del grad, hooks
    if not isinstance(tensor, TensorView):
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


class Machine:
    """Runs a pickle's opcodes on plain data. `position` is the opcode being run."""

    def __init__(self, data: bytes, records: dict[str, Record]):
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
                    raise RefusedError(f"more than {MAX_OPCODES} opcodes")
                step = _STEPS.get(opcode.name)
                if step is None:
                    raise RefusedError(
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
            raise RefusedError(f"state is set on a {type(target).__name__}")

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
            raise RefusedError(f"a {type(function).__name__} is called")

    def call_with_keywords(self, _: Any) -> None:
        keywords = self.pop()
        if keywords and not isinstance(self._stack[-2], _Inert):
            raise RefusedError("a function is called with keywords")
        self.call(None)

    def storage(self, _: Any) -> None:
        identity = self.pop()
        if not (isinstance(identity, tuple) and len(identity) == 5):
            raise RefusedError("a persistent id is not a storage of five parts")
        tag, kind, key, location, count = identity
        if not (isinstance(tag, str) and tag == "storage" and isinstance(kind, _StorageType)):
            raise RefusedError("a persistent id is not a storage")
        if not (isinstance(key, str) and re.fullmatch(r"\w[\w.-]{0,99}", key, re.ASCII)):
            raise RefusedError(f"storage key {shown(key)} is not a plain number or name")
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
_STEPS: dict[str, Callable[[Machine, Any], object]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, _: None),
    **dict.fromkeys(
        (
            *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
            *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
            *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        ),
        Machine.push,
    ),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_SET": lambda machine, _: machine.push(_Inert("set")),
    "MARK": Machine.mark,
    "POP": Machine.pop,
    "POP_MARK": Machine.pop_mark,
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
    "BINGET": Machine.get,
    "LONG_BINGET": Machine.get,
    "BINPUT": Machine.put,
    "LONG_BINPUT": Machine.put,
    "MEMOIZE": Machine.memoize,
    "GLOBAL": Machine.name,
    "STACK_GLOBAL": Machine.stack_name,
    "REDUCE": Machine.call,
    "NEWOBJ": Machine.call,
    "NEWOBJ_EX": Machine.call_with_keywords,
    "BUILD": Machine.build,
    "BINPERSID": Machine.storage,
}
