"""The page of FG-DM is true: its Python runs, its commands start, and it has every setting."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from configs import fgdm, sample_fgdm
from configs.common import parse_arg

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "factors.md").read_text()


def run(block: int) -> dict[str, Any]:
    """Returns the names that one of the page's blocks of Python leaves."""
    names: dict[str, Any] = {}
    text = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)[block]
    exec(compile(text, "docs/factors.md", "exec"), names)
    return names


def test_the_pipeline():
    names = run(0)
    assert names["drawn"].images.shape == (2, 64, 64, 3)
    assert names["drawn"].recall.shape == (2,)
    assert names["best"].maps.keys() == {"segmentation", "depth"}
    assert names["edited"].images.shape == (1, 64, 64, 3)


def test_drawing():
    names = run(1)
    assert set(names["pictures"]) == {"segmentation", "depth", "image"}
    for picture in names["pictures"].values():
        assert picture.shape == (2, 64, 64, 3)
        assert np.isfinite(picture).all()
    assert names["early"].shape == (2, 8, 8, 4)


def test_every_setting_has_its_place():
    ours = set(fgdm.get_config()) - set(fgdm.training.get_config())
    table = set(re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.MULTILINE))
    assert ours - {"system", "scale"} <= table


def test_every_factor_is_explained():
    table = "\n".join(line for line in PAGE.splitlines() if line.startswith("|"))
    assert [name for name in fgdm.GRAPHS if f"`{name}`" not in table] == []


def test_commands_name_settings_that_there_are():
    known = {"train": set(fgdm.get_config()), "sample": set(sample_fgdm.get_config())}
    commands = re.findall(r"python -m launch\.(\w+)((?:[^\n]*\\\n)*[^\n]*)", PAGE)
    assert {module for module, _ in commands} == set(known)
    for module, rest in commands:
        for word in shlex.split(rest.replace("\\\n", " ")):
            if match := re.match(r"--config\.(\w+)=", word):
                assert match[1] in known[module], word
            elif match := re.match(r"--config=configs/fgdm\.py:(.*)", word):
                fgdm.get_config(match[1])
                assert parse_arg(match[1], factor="", scale="")
