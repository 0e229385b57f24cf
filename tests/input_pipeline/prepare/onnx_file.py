"""A network file in ONNX's format, written by hand: the mean of the channels, then a sigmoid."""

from __future__ import annotations

from pathlib import Path

_FLOAT = 1


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes | str) -> bytes:
    value = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _ints(name: str, values: list[int]) -> bytes:
    # AttributeProto: name 1, ints 8, type 20 (INTS = 7).
    numbers = b"".join(_number(8, value) for value in values)
    return _bytes(5, _bytes(1, name) + numbers + _number(20, 7))


def _value(name: str, shape: list[int]) -> bytes:
    # ValueInfoProto: name, TypeProto{tensor_type{elem_type, shape{dim{dim_value}}}}.
    dims = b"".join(_bytes(1, _number(1, side)) for side in shape)
    return _bytes(1, name) + _bytes(2, _bytes(1, _number(1, _FLOAT) + _bytes(2, dims)))


def _node(kind: str, inputs: list[str], output: str, attributes: bytes = b"") -> bytes:
    names = b"".join(_bytes(1, name) for name in inputs)
    return _bytes(1, names + _bytes(2, output) + _bytes(4, kind) + attributes)


def write_saliency_network(path: Path, size: int = 32) -> Path:
    """Writes a network that finds bright pixels salient; returns its path.

    Args:
      path: of the file.
      size: height and width of its input.
    """
    graph = (
        _node("ReduceMean", ["image"], "mean", _ints("axes", [1]))
        + _node("Sigmoid", ["mean"], "saliency")
        + _bytes(2, "saliency")
        + _bytes(11, _value("image", [1, 3, size, size]))
        + _bytes(12, _value("saliency", [1, 1, size, size]))
    )
    # ModelProto: ir_version 1, graph 7, opset_import 8 {version 2}.
    model = _number(1, 8) + _bytes(7, graph) + _bytes(8, _number(2, 13))
    path.write_bytes(model)
    return path
