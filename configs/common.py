"""What config files share: arguments after the colon, lists, and errors with the nearest name."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

SCENES_SAMPLING = {
    "checkpoint": "scenes",
    "height": 64,
    "width": 64,
    "sampler": "dpmpp_2m",
    "spacing": "trailing",
    "num_steps": 20,
    "guidance_scale": 3.0,
}
"""Settings for the weights that ship with the project; see docs/scenes.md."""

SCENES_TRAINING = {
    "data": "scenes",
    "sizes": "64x64",
    "global_batch_size": 32,
    "num_epochs": 0.0,
    "num_steps": 1000,
    "optimizer": "muon",
    "learning_rate": 1.5e-3,
    "schedule": "cosine",
    "warmup_steps": 30,
    "ema_decay": 0.99,
    "max_grad_norm": 1.0,
    "log_every": 20,
    "eval_every": 500,
    "sample_every": 500,
    "save_every": 500,
    "guidance_scale": 3.0,
}
"""How fusers and adapters for them are trained: `scale=scenes`."""


def parse_arg(arg: str | None, **defaults: Any) -> dict[str, Any]:
    """Returns the arguments of `config.py:name=value,name=value` over their defaults.

    Args:
      arg: what follows the colon.
      **defaults: known arguments; a value takes the type of its default.

    Raises:
      ValueError: an argument is unknown or of another type; the nearest name is suggested.
    """
    values = dict(defaults)
    for item in filter(None, (arg or "").split(",")):
        name, separator, text = item.partition("=")
        if name not in defaults:
            raise ValueError(unknown_name("config argument", name, defaults))
        if not separator:
            raise ValueError(f"config argument {name!r} needs a value: {name}=...")
        values[name] = _typed(name, text, defaults[name])
    return values


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Returns the message for a name that is not known, with the nearest one that is."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"unknown {kind} {name!r}{hint} Known: {', '.join(known)}"


def check_known(kind: str, names: Iterable[str], known: Mapping[str, Any]) -> None:
    """Checks names against the known ones.

    Raises:
      ValueError: lists every unknown name.
    """
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError("\n".join(unknown_name(kind, name, known) for name in unknown))


def split_list(text: Any) -> list[str]:
    """Returns the items of a list joined by commas, or of a JSON list of texts.

    Raises:
      ValueError: the text begins like a JSON list and is none.
    """
    text = str(text).strip()
    if not text.startswith("["):
        return [item.strip() for item in text.split(",") if item.strip()]
    try:
        items = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{text!r} begins like a JSON list, but is none ({error})") from error
    if not all(isinstance(item, str) for item in items):
        raise ValueError(f"{text!r} must be a JSON list of texts")
    return items


def repeat(config: ConfigDict, record: str) -> None:
    """Sets a config to that of an earlier run, which is repeated beside the old one, never over it.

    Args:
      config: of the same config file as the earlier run's.
      record: its record.json.

    Raises:
      ValueError: the file is no record of such a run.
    """
    try:
        recorded = json.loads(Path(record).read_text(encoding="utf-8"))["config"]
        names = list(recorded)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{record}: no record of launch.sample ({error})") from error
    check_known("config key of the record", names, config.to_dict())
    config.update({**recorded, "output": "outputs", "overwrite": False, "record": record})


def _typed(name: str, text: str, default: Any) -> Any:
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(f"config argument {name!r} must be true or false, got {text!r}")
        return text.lower() == "true"
    try:
        return type(default)(text)
    except ValueError as error:
        raise ValueError(
            f"config argument {name!r} must be {type(default).__name__}, got {text!r}"
        ) from error
