"""Two fusers that share most tensors store them once, and load as before."""

from __future__ import annotations

import numpy as np
import pytest

import cnc_jax
from cnc_jax.convert import COMPONENTS
from cnc_jax.surgery import extend_local
from cnc_jax.testing import random_model, smallest_config
from launch.share_weights import share_weights
from sd_jax.convert.export import export_diffusers
from sd_jax.convert.weights import weights_of_model
from sd_jax.model import Model
from sd_jax.typing import flat_params

FILE = "diffusion_pytorch_model.safetensors"


def exported(model: Model, folder):
    sizes = {name: getattr(model.config, name) for name in model.params}
    weights = weights_of_model(model.params, sizes, model.config.schedule)
    export_diffusers(weights, COMPONENTS, folder)
    return folder / "local_fuser"


@pytest.fixture
def folders(tmp_path):
    two = random_model(smallest_config(), 0, ("local_fuser",))
    three = extend_local(two).model
    return exported(two, tmp_path / "two"), exported(three, tmp_path / "three")


def test_both_load_as_before(folders):
    before = [flat_params(cnc_jax.load(item.parent).params["local_fuser"]) for item in folders]
    saved = share_weights(*folders)
    for folder, expected in zip(folders, before, strict=True):
        assert not (folder / FILE).exists()
        after = flat_params(cnc_jax.load(folder.parent).params["local_fuser"])
        assert after.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(after[name], array)
    own = [item for item in folders[1].iterdir() if not item.is_symlink()]
    assert [item.name for item in own] == ["config.json"]
    assert saved == (folders[0] / "shared.safetensors").stat().st_size - header(folders[0])


def header(folder) -> int:
    with (folder / "shared.safetensors").open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def test_a_folder_without_weights_is_named(folders):
    (folders[0] / FILE).unlink()
    with pytest.raises(ValueError, match=r"two/local_fuser: no diffusion_pytorch_model"):
        share_weights(*folders)
    assert (folders[1] / FILE).exists()
