"""What a command's `--help` says of the settings in its config file."""

from __future__ import annotations

import importlib
import inspect
import re
from types import ModuleType

_SETTING = re.compile(r"    config\.(\w+) = (.+?)(?:  # (.+))?")
_SECTION = re.compile(r"    # (.+)")


def describe_settings(module_name: str) -> str:
    """Returns the docstring of a config file and a line for each setting: default and meaning.

    The file is the only place where a setting, its default and its comment stand.

    Args:
      module_name: of the config file; its `get_config` has lines `config.name = default  # what`,
        and so has that of the module that its `BASE` names, if it has one.
    """
    module = importlib.import_module(module_name)
    lines = [inspect.cleandoc(module.__doc__ or ""), "", "Settings (--config.<name>=<value>):"]
    lines += _settings(module)
    base = getattr(module, "BASE", None)
    if base is not None:
        lines += _settings(importlib.import_module(base))
    return "\n".join(lines)


def _settings(module: ModuleType) -> list[str]:
    lines = []
    for line in inspect.getsource(module.get_config).splitlines():
        if section := _SECTION.fullmatch(line):
            lines += ["", f"  {section[1]}"]
        elif setting := _SETTING.fullmatch(line):
            name, default, meaning = setting.groups()
            lines.append(f"    {name:<22} {default:<12} {meaning or ''}".rstrip())
    return lines
