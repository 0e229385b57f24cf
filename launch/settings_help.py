"""What a command's `--help` says of the settings in its config file."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from types import ModuleType
from typing import Any

_SETTING = re.compile(r"    config\.(\w+) = .+?(?:  # (.+))?")
_SECTION = re.compile(r"    # (.+)")


def describe_settings(module_name: str, argument: str | None = None) -> str:
    """Returns the docstring of a config file and a line for each setting: value and meaning.

    The file is the only place where a setting, its default and its comment stand.

    Args:
      module_name: of the config file; its `get_config` has lines `config.name = default  # what`,
        and so has that of the module that its `BASE` names, if it has one. A setting of both is
        told where it has a comment.
      argument: what follows the colon after the file's name, such as `scale=scenes`: the values
        are those that it gives.
    """
    module = importlib.import_module(module_name)
    values = module.get_config(argument).to_dict()
    modules = [module]
    if base := getattr(module, "BASE", None):
        modules.append(importlib.import_module(base))
    lines = [inspect.cleandoc(module.__doc__ or ""), "", "Settings (--config.<name>=<value>):"]
    explained: set[str] = set()
    for item in modules:
        lines += _settings(item, values, explained)
    return "\n".join(lines)


def _settings(module: ModuleType, values: dict[str, Any], explained: set[str]) -> list[str]:
    lines = []
    for line in inspect.getsource(module.get_config).splitlines():
        if section := _SECTION.fullmatch(line):
            lines += ["", f"  {section[1]}"]
        elif setting := _SETTING.fullmatch(line):
            name, meaning = setting.groups()
            if name not in explained and meaning:
                explained.add(name)
                lines.append(f"    {name:<22} {json.dumps(values[name]):<12} {meaning}")
    return lines
