"""Tables are one-to-one, hold no stale rows, and move every kind of tensor there and back."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from cnc_jax.convert import COMPONENTS as CNC_COMPONENTS
from cnc_jax.convert import layer_names
from cnc_jax.global_fuser import GlobalFuserConfig
from cnc_jax.local_fuser import LocalFuserConfig
from sd_jax.convert.table import abstract_params, make_table, their_shape, to_ours, to_theirs

THEIR_SHAPES = {
    "same": (5,),
    "linear": (3, 4),
    "pointwise": (3, 4, 1, 1),
    "conv": (2, 3, 5, 7),
}
BY_NAME = {component.name: component for component in CNC_COMPONENTS}


@pytest.mark.parametrize("kind", THEIR_SHAPES)
def test_there_and_back(kind):
    theirs = np.arange(np.prod(THEIR_SHAPES[kind]), dtype=np.float32).reshape(THEIR_SHAPES[kind])
    ours = to_ours(theirs, kind)
    back = to_theirs(ours, kind)
    assert ours.flags.c_contiguous
    assert back.flags.c_contiguous
    np.testing.assert_array_equal(back, theirs)
    assert their_shape(ours.shape, kind) == theirs.shape


def test_axes():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(3, 4))
    np.testing.assert_array_equal(to_ours(matrix, "linear"), matrix.T)
    np.testing.assert_array_equal(to_ours(matrix[:, :, None, None], "pointwise"), matrix.T)
    kernel = rng.normal(size=(2, 3, 5, 7))
    assert to_ours(kernel, "conv")[4, 6, 2, 1] == kernel[1, 2, 4, 6]


@pytest.fixture(scope="module")
def sizes(tiny):
    """Returns tiny sizes of every component that Compose and Conquer knows."""
    unet = tiny["unet"]
    return {
        **tiny,
        "local_fuser": LocalFuserConfig(unet, stem_channels=(4, 8, 8), inject_channels=(8, 16)),
        "global_fuser": GlobalFuserConfig(embedding_dim=24),
    }


@pytest.mark.parametrize("name", BY_NAME)
def test_tables_name_everything_once(sizes, name):
    component, config = BY_NAME[name], sizes[name]
    abstract = component.abstract_params(config)
    paths = []
    for spec in component.layouts.values():
        table = make_table(abstract, spec.modules(config), spec.pointwise)
        names = [entry.name for entry in table]
        assert len(names) == len(set(names))
        assert all(entry.shape == their_shape(_ours(entry), entry.kind) for entry in table)
        paths.append({entry.path for entry in table})
    assert paths[0] == paths[1]


@pytest.mark.parametrize("name", BY_NAME)
def test_tables_have_no_stale_rows(sizes, name):
    component, config = BY_NAME[name], sizes[name]
    abstract = component.abstract_params(config)
    for layout, spec in component.layouts.items():
        modules = spec.modules(config)
        paths = {entry.path for entry in make_table(abstract, modules)}
        used = paths | {path.rpartition("/")[0] for path in paths}
        # Blocks whose width does not change have no shortcut, and share the rows of those that do.
        stale = {path for path in modules if path not in used}
        assert {path for path in stale if not path.endswith("/conv_shortcut")} == set(), layout
        assert spec.pointwise <= used


@pytest.mark.parametrize("name", BY_NAME)
def test_sizes_are_told_by_the_shapes(sizes, name):
    component, config = BY_NAME[name], sizes[name]
    for layout, spec in component.layouts.items():
        shapes = {entry.name: entry.shape for entry in component.table(layout, config)}
        assert spec.infer(shapes, {}) == config
        assert spec.is_in(shapes)


def test_a_network_of_one_size_is_traced_once(tiny, monkeypatch):
    traced, trace = [], jax.eval_shape
    monkeypatch.setattr(jax, "eval_shape", lambda *args: traced.append(args) or trace(*args))
    abstract_params.cache_clear()
    sizes = tiny["vae"]
    other = dataclasses.replace(sizes, latent_channels=sizes.latent_channels + 1)
    tables = [BY_NAME["vae"].table("ldm", item) for item in (sizes, other, sizes)]
    assert len(traced) == 2
    assert tables[0] == tables[2] != tables[1]


def test_a_module_without_a_row_is_a_defect(tiny):
    component = BY_NAME["vae"]
    modules = component.layouts["ldm"].modules(tiny["vae"])
    del modules["quant_conv"]
    with pytest.raises(KeyError, match="quant_conv"):
        make_table(component.abstract_params(tiny["vae"]), modules)


@pytest.mark.parametrize(
    ("count", "names"),
    [(1, ("",)), (2, ("fg", "bg")), (3, ("fg", "mid1", "bg")), (4, ("fg", "mid1", "mid2", "bg"))],
)
def test_names_of_the_layers(count, names):
    assert layer_names(count) == names


@pytest.mark.parametrize("count", [1, 3])
def test_other_numbers_of_layers(sizes, count):
    local = LocalFuserConfig(
        sizes["unet"], num_layers=count, stem_channels=(4, 8, 8), inject_channels=(8, 16)
    )
    for name, config in (
        ("local_fuser", local),
        ("global_fuser", GlobalFuserConfig(embedding_dim=24, num_layers=count)),
    ):
        component = BY_NAME[name]
        shapes = {entry.name: entry.shape for entry in component.table("ldm", config)}
        assert component.layouts["ldm"].infer(shapes, {}) == config


def _ours(entry):
    return to_ours(np.empty(entry.shape, np.float32), entry.kind).shape
