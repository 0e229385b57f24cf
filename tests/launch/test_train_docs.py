"""The training page is true: its Python runs, its commands start, and it has every setting."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from configs import cnc, training
from launch.settings_help import describe_settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "training.md").read_text()


def test_a_loss_of_ones_own():
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block, "docs/training.md", "exec"), names)
    first = names["loss_fn"](names["params"], names["frozen"], names["batch"], None, 0)[0]
    assert float(names["metrics"]["loss"]) < float(first)


def test_every_setting_has_its_place():
    for name in cnc.get_config():
        assert f"| `{name}` |" in PAGE, name
        assert re.search(rf"^    {name} ", describe_settings("configs.cnc"), re.MULTILINE), name
    assert set(training.get_config()) < set(cnc.get_config())


def test_commands_name_settings_that_there_are():
    from configs import sample

    known = {"train": set(cnc.get_config()), "sample": set(sample.get_config())}
    commands = re.findall(r"python -m launch\.(\w+)((?:[^\n]*\\\n)*[^\n]*)", PAGE)
    assert len(commands) > 5
    for module, rest in commands:
        for word in shlex.split(rest.replace("\\\n", " ")):
            if match := re.match(r"--config\.(\w+)=", word):
                assert match[1] in known[module], word
            elif match := re.match(r"--config=configs/cnc\.py:(.*)", word):
                cnc.get_config(match[1])
