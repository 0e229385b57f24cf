"""The page of drawing is true: its commands start, and it has every setting and graph."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from configs import sample, sample_fgdm
from fgdm_jax.graph import parse_graph

PAGE = (Path(__file__).parents[2] / "docs" / "drawing.md").read_text()


def commands() -> list[list[str]]:
    blocks = "".join(re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL))
    return [shlex.split(line) for line in blocks.replace("\\\n", " ").splitlines()]


@pytest.mark.parametrize("words", commands())
def test_commands_name_settings_that_there_are(words):
    assert words[:3] == ["python", "-m", "launch.sample"]
    named = re.match(r"--config=configs/sample_fgdm\.py:?(.*)", words[3])
    config = sample.get_config() if named is None else sample_fgdm.get_config(named[1])
    for word in words[3 if named is None else 4 :]:
        match = re.match(r"--config\.(\w+)=", word)
        assert match is not None, word
        assert match[1] in config, word


def test_every_setting_and_graph_has_its_place():
    assert [name for name in sample_fgdm.get_config() if f"`{name}`" not in PAGE] == []
    for name, text in sample_fgdm.GRAPHS.items():
        assert f"| `{name}` |" in PAGE
        assert parse_graph(text)
