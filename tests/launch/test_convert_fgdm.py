"""launch.convert, launch.export and launch.sample with the files that FG-DM publishes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fgdm_jax
from fgdm_jax.convert import components
from fgdm_jax.testing import random_model, smallest_config
from launch.converting import ConvertRequest, convert
from sd_jax.convert.export import export_ldm
from sd_jax.convert.store import save_model
from sd_jax.convert.weights import weights_of_model
from sd_jax.files import open_tensors
from sd_jax.typing import flat_params
from tests.launch.commands import launched


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """Returns files as upstream publishes them: each a Stable Diffusion and one adapter."""
    folder = tmp_path_factory.mktemp("upstream")
    model = random_model(smallest_config({"segmentation": 1, "depth": 1}))
    paths = {}
    for variable in ("segmentation", "depth"):
        names = ("unet", "vae", "text_encoder", f"adapter_{variable}")
        params = {name: model.params[name] for name in names}
        sizes = {name: getattr(model.config, name) for name in names}
        paths[variable] = folder / f"fgdm_{variable}.safetensors"
        weights = weights_of_model(params, sizes, model.config.schedule)
        export_ldm(weights, components(variable), paths[variable])
    return paths


def assert_same_tensors(ours: Path, theirs: Path) -> None:
    ours_open, theirs_open = open_tensors(ours), open_tensors(theirs)
    assert ours_open.keys() == theirs_open.keys()
    for name, tensor in theirs_open.items():
        assert ours_open[name].read().tobytes() == tensor.read().tobytes(), name


def test_the_variable_is_said_and_the_file_comes_back(files, tmp_path):
    converted = tmp_path / "converted"
    table = convert(ConvertRequest([f"depth={files['depth']}"], str(converted)))
    assert "adapter_depth" in table
    assert "adapter_segmentation" not in table
    assert set(fgdm_jax.load(converted).params) == {"unet", "vae", "text_encoder", "adapter_depth"}
    written = tmp_path / "again.safetensors"
    launched("export", f"--checkpoint={converted}", "--layout=ldm", f"--output={written}")
    assert_same_tensors(written, files["depth"])


def test_files_of_two_variables_join(files, tmp_path):
    converted = tmp_path / "converted"
    sources = ",".join(f"{variable}={path}" for variable, path in files.items())
    table = launched("convert", f"--source={sources}", f"--output={converted}")
    assert "not taken: fgdm_segmentation.safetensors has one" in table
    model = fgdm_jax.load(converted)
    for variable, path in files.items():
        alone = fgdm_jax.load(path, variable=variable).params[f"adapter_{variable}"]
        joined = flat_params(model.params[f"adapter_{variable}"])
        for name, leaf in flat_params(alone).items():
            np.testing.assert_array_equal(leaf, joined[name])


def test_a_trained_adapter_goes_out_under_upstreams_name(files, tmp_path):
    model = fgdm_jax.load(files["segmentation"])
    sizes = {name: getattr(model.config, name) for name in model.params}
    save_model(model.params, sizes, tmp_path / "run", model.config.schedule)
    written = tmp_path / "out.safetensors"
    arguments = (f"--checkpoint={tmp_path / 'run'}", "--layout=ldm", f"--output={written}")
    launched("export", *arguments)
    assert any(name.startswith("adapter_segmentation.") for name in open_tensors(written))
    launched("export", *arguments, "--variable=segmentation", "--overwrite")
    assert_same_tensors(written, files["segmentation"])


def test_an_unknown_variable_is_named(files, tmp_path):
    request = ConvertRequest([f"dpeth={files['depth']}"], str(tmp_path / "converted"))
    with pytest.raises(ValueError, match="unknown variable 'dpeth'; did you mean 'depth'"):
        convert(request)
    assert not (tmp_path / "converted").exists()
