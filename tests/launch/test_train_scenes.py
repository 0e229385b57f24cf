"""The recipe of the weights that ship: every command in it is one that there is."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import subprocess
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from sd_jax.embedded import embedded_folders

ROOT = Path(__file__).parents[2]
_STAND_IN = """#!/usr/bin/env bash
printf '%s\\n' "$*" >> "$COMMANDS"
"""


@pytest.fixture(scope="module")
def commands(tmp_path_factory) -> list[list[str]]:
    """Returns the words of each command that the script gives to Python."""
    folder = tmp_path_factory.mktemp("recipe")
    stand_in = folder / "python"
    stand_in.write_text(_STAND_IN)
    stand_in.chmod(0o755)
    log = folder / "commands"
    path = f"{folder}:{os.environ['PATH']}"
    subprocess.run(
        ["bash", str(ROOT / "launch" / "train_scenes.sh"), str(folder / "runs"), "--config.seed=7"],
        env={**os.environ, "PATH": path, "COMMANDS": str(log)},
        cwd=folder,
        check=True,
        timeout=60,
    )
    return [line.split() for line in log.read_text().splitlines()]


def values_of(words: list[str], flag: str) -> list[str]:
    return [word.partition("=")[2] for word in words if word.startswith(f"--{flag}=")]


def config_of(words: list[str]) -> ConfigDict:
    """Returns the config of a training, with its settings; unknown ones are refused."""
    (file,) = values_of(words, "config")
    path, _, argument = file.partition(":")
    config = importlib.import_module(path.removesuffix(".py").replace("/", ".")).get_config(
        argument
    )
    for word in words:
        if match := re.match(r"--config\.(\w+)=(.*)", word):
            name, text = match.groups()
            setattr(config, name, type(config[name])(text))
    return config


def test_trainings_have_settings_that_there_are(commands):
    trainings = [words for words in commands if words[1] == "launch.train"]
    assert len(trainings) > 10
    seen = set()
    for words in trainings:
        config = config_of(words)
        assert config.seed == 7  # flags of the caller reach every training
        # The recipe tells the steps; none is as long as a default may be.
        assert values_of(words, "config.num_steps"), words
        (workdir,) = values_of(words, "workdir")
        starts = [item for value in values_of(words, "config.init") for item in value.split(",")]
        assert seen.issuperset(starts), f"{workdir} starts from what is not there yet"
        seen.add(workdir)


def test_all_that_ships_is_exported(commands):
    exported = {
        (Path(values_of(words, "output")[0]).name, name)
        for words in commands
        if words[1] == "launch.export"
        for name in values_of(words, "only")[0].split(",")
    }
    shipped = {
        (folder.name, part.name)
        for name in ("scenes", "scenes-three")
        for folder in embedded_folders(name)
        for part in folder.iterdir()
        if list(part.glob("*.safetensors*"))
    }
    assert exported == shipped


def test_modules_are_there(commands):
    for words in commands:
        assert words[0] == "-m"
        assert importlib.util.find_spec(words[1]), words


@pytest.mark.parametrize("name", ["prior", "cnc", "three", "fgdm"])
def test_every_folder_has_its_card(name):
    """With what a model card needs, and with every part that the folder holds."""
    (folder,) = {
        item
        for embedded in ("scenes", "scenes-three")
        for item in embedded_folders(embedded)
        if item.name == name
    }
    _, header, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert "license: apache-2.0" in header
    for word in ("**Data**", "**Command**", "**Machine**", "**Licence**", "easured 2026-"):
        assert word in text.replace("**Measured** 2026-", "measured 2026-"), word
    for part in folder.iterdir():
        if list(part.glob("*.safetensors*")):
            assert f"`{part.name.removeprefix('adapter_')}`" in text, part.name
