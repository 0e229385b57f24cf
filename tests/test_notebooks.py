"""The notebooks are in order, and run from their first cell to their last.

By default with a random model in the real formats and fewer steps; the slow tests run them as they
stand, with the weights that ship with the project.
"""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

import cnc_jax.testing
import fgdm_jax.testing
from launch.components import AnyConfig, components_of
from sd_jax.convert.export import export_diffusers
from sd_jax.convert.weights import weights_of_model
from sd_jax.testing import random_params

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TIMEOUT_S = 1400

SEEN = {
    **dict.fromkeys(("segmentation", "depth", "foreground_depth", "background_depth"), 1),
    "image": 2,
}
FEWER: dict[str, dict[str, Any]] = {
    "compose": {"NUM_PICTURES": 1, "NUM_STEPS": 2},
    "factors": {"NUM_PICTURES": 2, "NUM_MAPS": 2, "NUM_STEPS": 2},
}


def notebook(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


def test_there_are_three():
    assert [path.stem for path in NOTEBOOKS] == ["compose", "factors", "train_and_export"]


def test_a_notebook_is_stored_as_it_was_written(path):
    book = notebook(path)
    nbformat.validate(book)
    assert (book.nbformat, book.nbformat_minor) == (4, 5)
    assert all(re.fullmatch(r"[a-z][a-z-]*", cell.id) for cell in book.cells)
    assert [cell.id for cell in book.cells][:3] == ["title", "device", "parameters"]
    for cell in book.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    assert f"/notebooks/{path.name})" in book.cells[0].source
    assert [cell.id for cell in book.cells if "parameters" in cell.metadata.get("tags", [])] == [
        "parameters"
    ]


def test_all_name_one_address_of_the_project():
    found = set()
    for path in NOTEBOOKS:
        book = notebook(path)
        found |= set(re.findall(r"colab\.research\.google\.com/github/([^/]+/[^/]+)/", str(book)))
        found |= set(re.findall(r'"https://github\.com/([^/]+/[^/"]+)"', book.cells[1].source))
    assert len(found) == 1


def test_links_lead_somewhere(path):
    for cell in notebook(path).cells:
        for target in re.findall(r"\]\(([^)#]+)\)", cell.source):
            if cell.cell_type == "markdown" and not target.startswith("http"):
                assert (path.parent / target).exists(), target


def random_config() -> AnyConfig:
    """Returns the smallest sizes of a model that is both systems."""
    fgdm, cnc = fgdm_jax.testing.smallest_config(SEEN), cnc_jax.testing.smallest_config()
    fuser = dataclasses.replace(cnc.local_fuser, unet=fgdm.unet)
    fields = {field.name: getattr(fgdm, field.name) for field in dataclasses.fields(fgdm)}
    others = {"image_encoder": cnc.image_encoder, "global_fuser": cnc.global_fuser}
    return AnyConfig(**{**fields, **others, "local_fuser": fuser, "controlnet": None})


@pytest.fixture(scope="module")
def random_folder(tmp_path_factory) -> str:
    """Returns a folder of random weights in diffusers' layout."""
    folder = tmp_path_factory.mktemp("weights") / "scenes"
    params, config = random_params(components_of(), random_config(), 0, ())
    sizes = {item: getattr(config, item) for item in params}
    export_diffusers(weights_of_model(params, sizes, config.schedule), components_of(), folder)
    return str(folder)


def overridden(book: Any, values: dict[str, Any]) -> Any:
    """Returns the notebook with other values after its parameters, which must be there."""
    (index,) = (index for index, cell in enumerate(book.cells) if cell.id == "parameters")
    names = set(re.findall(r"^(\w+) = ", book.cells[index].source, flags=re.MULTILINE))
    assert values.keys() <= names
    source = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    book.cells.insert(index + 1, nbformat.v4.new_code_cell(source, id="overrides"))
    return book


def executed(book: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns a notebook after all of its cells, which is written to the folder too."""
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    client = NotebookClient(
        book, timeout=TIMEOUT_S, kernel_name="python3", resources={"metadata": {"path": folder}}
    )
    try:
        client.execute()
    finally:
        # For whoever wants to see why it failed, or what it shows.
        nbformat.write(book, folder / "executed.ipynb")
    return book


def pictures_of(book: Any) -> list[Any]:
    return [
        output
        for cell in book.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]


@pytest.mark.parametrize("name", ["compose", "factors"])
def test_it_runs_with_any_model(name, random_folder, tmp_path, monkeypatch):
    book = notebook(ROOT / "notebooks" / f"{name}.ipynb")
    book = overridden(book, {"CHECKPOINT": random_folder, **FEWER[name]})
    assert len(pictures_of(executed(book, tmp_path, monkeypatch))) >= 3


@pytest.mark.slow
def test_it_runs_as_it_stands(path, tmp_path, monkeypatch):
    assert len(pictures_of(executed(notebook(path), tmp_path, monkeypatch))) >= 3
