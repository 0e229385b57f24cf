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
      ValueError: names every unknown field.
    """
    fields = {field.name for field in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    unknown = sorted(set(content) - fields)
    if unknown:
        raise ValueError(
            f"{config_class.__name__} has no field {', '.join(unknown)}; known are "
            f"{', '.join(sorted(fields))}. The file was written by another version"
        )
    hints = typing.get_type_hints(config_class)
    return config_class(**{name: _revive(hints[name], value) for name, value in content.items()})


def _revive(hint: Any, value: Any) -> Any:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        return None if value is None else _revive(options[0], value)
    if dataclasses.is_dataclass(hint):
        return from_json(hint, value)  # type: ignore[arg-type]
    return tuple(value) if isinstance(value, list) else value
