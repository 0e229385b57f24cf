"""Sizes (frozen dataclasses) to and from JSON."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def to_json(config: Any) -> dict[str, Any]:
    """Returns a dataclass as plain dicts, lists, numbers and strings."""
    return dataclasses.asdict(config)


def from_json(config_class: type[T], content: Mapping[str, Any]) -> T:
    """Returns the dataclass that `to_json` was given.

    Args:
      config_class: its class; may hold dataclasses, tuples, and either or None.
      content: the JSON object.

    Raises:
      ValueError: names every unknown field, or a field whose value is of another type.
    """
    fields = {field.name for field in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    unknown = sorted(set(content) - fields)
    if unknown:
        raise ValueError(
            f"{config_class.__name__} has no field {', '.join(unknown)}; known are "
            f"{', '.join(sorted(fields))}. The file was written by another version"
        )
    hints = typing.get_type_hints(config_class)
    return config_class(
        **{
            name: _revive(f"{config_class.__name__}.{name}", hints[name], value)
            for name, value in content.items()
        }
    )


def _revive(where: str, hint: Any, value: Any) -> Any:
    """Returns `value` as the type that `hint` says, or raises ValueError naming the field."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, types.UnionType) or origin is typing.Union:
        (hint,) = (option for option in options if option is not type(None))
        return None if value is None else _revive(where, hint, value)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_json(hint, value)  # type: ignore[arg-type]
    if origin is tuple and isinstance(value, list | tuple):
        kinds = options[:1] * len(value) if options[-1] is Ellipsis else options
        if len(kinds) == len(value):
            pairs = zip(kinds, value, strict=True)
            return tuple(_revive(where, kind, item) for kind, item in pairs)
    if origin is typing.Literal and value in options:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)  # JSON has one kind of number
    # Python counts bool among the integers.
    if (
        hint in (bool, int, float, str)
        and isinstance(value, hint)
        and (hint is bool or not isinstance(value, bool))
    ):
        return value
    raise ValueError(f"{where} is {value!r}, expected {getattr(hint, '__name__', hint)}")
