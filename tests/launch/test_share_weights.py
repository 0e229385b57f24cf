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
from sd_jax.files.tensors import open_tensors
from sd_jax.model import Model
from sd_jax.typing import flat_params

FILE = "diffusion_pytorch_model.safetensors"


def exported(model: Model, folder):
    sizes = {name: getattr(model.config, name) for name in model.params}
    weights = weights_of_model(model.params, sizes, model.config.schedule)
    export_diffusers(weights, COMPONENTS, folder)
    return folder / "local_fuser"


@pytest.fixture(params=["two and three", "neighbours"])
def folders(tmp_path, request):
    two = random_model(smallest_config(), 0, ("local_fuser",))
    three = extend_local(two).model
    # Trained on: of the same shape, and not the same.
    extractor = three.params["local_fuser"]["feature_extractor"]
    extractor["extractors_1"]["bias"] = extractor["extractors_1"]["bias"] + 1
    found = [exported(two, tmp_path / "two"), exported(three, tmp_path / "three")]
    if request.param == "neighbours":
        (tmp_path / "both").mkdir()
        found = [item.rename(tmp_path / "both" / item.parent.name) for item in found]
    return found


def values_of(folder) -> dict[str, bytes]:
    path = folder / FILE if (folder / FILE).exists() else folder / f"{FILE}.index.json"
    return {name: item.read().tobytes() for name, item in open_tensors(path).items()}


def test_both_hold_what_they_held(folders):
    before = [values_of(folder) for folder in folders]
    saved = share_weights(*folders)
    assert [values_of(folder) for folder in folders] == before
    assert not any((folder / FILE).exists() for folder in folders)
    own = [item for item in folders[1].iterdir() if not item.is_symlink()]
    assert [item.name for item in own] == ["config.json"]
    assert saved == (folders[0] / "shared.safetensors").stat().st_size - header(folders[0])


def test_pipelines_load_as_before(tmp_path):
    two = random_model(smallest_config(), 0, ("local_fuser",))
    models = {"two": two, "three": extend_local(two).model}
    share_weights(*(exported(model, tmp_path / name) for name, model in models.items()))
    for name, model in models.items():
        loaded = flat_params(cnc_jax.load(tmp_path / name).params["local_fuser"])
        for path, array in flat_params(model.params["local_fuser"]).items():
            np.testing.assert_array_equal(loaded[path], array)


def header(folder) -> int:
    with (folder / "shared.safetensors").open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def test_a_folder_without_weights_is_named(folders):
    (folders[0] / FILE).unlink()
    with pytest.raises(ValueError, match=r"two.*: no diffusion_pytorch_model"):
        share_weights(*folders)
    assert (folders[1] / FILE).exists()


def test_a_folder_is_not_shared_with_itself(folders):
    with pytest.raises(ValueError, match="is named twice"):
        share_weights(folders[0], folders[0].parent / "." / folders[0].name)
    assert (folders[0] / FILE).exists()
