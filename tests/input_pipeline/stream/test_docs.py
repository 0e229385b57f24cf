from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

from input_pipeline.stream import Helpers, StreamConfig, batches
from input_pipeline.stream.config import KEY_FIELDS, VARIABLES

PAGE = (Path(__file__).parents[3] / "docs" / "stream.md").read_text()


def test_the_page_runs() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block, "docs/stream.md", "exec"), names)
    assert names["batch"]["depth_maps"].shape == (8, 2, 64, 64, 3)
    assert len(names["captions"]) == 8
    assert names["stream"].step == 1001


def test_the_page_tells_every_key_and_setting() -> None:
    settings = [field.name for field in dataclasses.fields(StreamConfig)]
    arguments = list(inspect.signature(batches).parameters)[2:]
    told = set(re.findall(r"`(\w+)`", PAGE))
    assert {*KEY_FIELDS, *VARIABLES, *settings, *arguments, "present"} <= told
    assert {field.name for field in dataclasses.fields(Helpers)} >= {"tokenizer"}
