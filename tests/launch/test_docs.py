"""What the documentation shows runs as it stands there, on the files that the quickstart leaves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from launch.quickstart_parts import write_inputs

ROOT = Path(__file__).parents[2]


def python_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


@pytest.fixture
def after_quickstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the inputs that `make quickstart` leaves."""
    write_inputs(tmp_path / "outputs" / "quickstart" / "inputs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readme_composes_an_image(after_quickstart):
    (block,) = python_blocks("README.md")
    exec(compile(block, "README.md", "exec"), {})
    assert (after_quickstart / "outputs" / "composed.png").is_file()


def test_the_sampling_page_predicts_noise(after_quickstart):
    (block,) = python_blocks("docs/sampling.md")
    names: dict[str, Any] = {}
    exec(compile(block, "docs/sampling.md", "exec"), names)
    assert names["noise"].shape == (1, 8, 8, 16)


def test_the_data_page_reads_shards(tmp_path, monkeypatch):
    from configs.prepare import get_config
    from launch.preparing import prepare

    config = get_config("dataset=scenes")
    config.update({"output": str(tmp_path / "shards" / "coco"), "limit": 3, "num_shards": 1})
    config.sizes = "64x64"
    prepare(config)
    monkeypatch.chdir(tmp_path)
    first, second = python_blocks("docs/data.md")
    names: dict[str, Any] = {}
    exec(compile(first, "docs/data.md", "exec"), names)
    assert len(names["records"]) == 3
    exec(compile(second, "docs/data.md", "exec"), names)
    assert len(names["source"]) == 3


def test_every_setting_has_a_place_in_the_documentation():
    from configs.sample import get_config

    page = (ROOT / "docs" / "sampling.md").read_text()
    assert [name for name in get_config() if f"`{name}`" not in page] == []


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *ROOT.glob("docs/*.md"), ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
