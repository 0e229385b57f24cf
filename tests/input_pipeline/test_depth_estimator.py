from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from input_pipeline import depth_estimator
from input_pipeline.depth_estimator import load_depth_estimator, normalise_depth
from tests.input_pipeline.tiny_dpt import write_dpt

ASTRONAUT = np.ascontiguousarray(data.astronaut()[::4, ::4])
COFFEE = np.ascontiguousarray(data.coffee()[::5, ::4])


@pytest.fixture(scope="module")
def dpt_folder(tmp_path_factory) -> Path:
    """The folder of a tiny network."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    return write_dpt(tmp_path_factory.mktemp("dpt"))


@pytest.fixture
def copied_folder(dpt_folder, tmp_path) -> Path:
    for file in dpt_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def edit_weights(folder: Path, edit) -> None:
    from safetensors.numpy import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.fixture
def needs_torch() -> None:
    pytest.importorskip("torch")


# ---- normalising


def test_normalised_depth_spans_the_range_and_keeps_the_order():
    raw = np.array([[2.0, 4.0], [3.0, 6.0]])
    depth = normalise_depth(raw)
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, [[0, 0.5], [0.25, 1]])


def test_distances_become_inverse_depth():
    depth = normalise_depth(1 / np.array([[1.0, 2.0, 4.0]]))
    np.testing.assert_allclose(depth, [[1, 1 / 3, 0]], atol=1e-7)


@pytest.mark.parametrize("level", [0.0, 7.0, -3.0])
def test_constant_depth_becomes_zero_even_with_rounding_errors(level):
    raw = np.full((4, 4), level, np.float32)
    assert not normalise_depth(raw).any()
    raw[1, 2] = np.nextafter(raw[1, 2], np.float32(100))
    if level:
        assert not normalise_depth(raw).any()


def test_depth_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="2 NaN or infinite"):
        normalise_depth(np.array([[np.nan, 1, np.inf]]))


# ---- estimating


def test_maps_have_the_sizes_of_their_photos_and_the_whole_range(dpt_folder):
    photos = [ASTRONAUT, COFFEE, ASTRONAUT[:3]]
    depth_maps = load_depth_estimator(dpt_folder)(photos)
    for photo, depth in zip(photos, depth_maps, strict=True):
        assert depth.shape == photo.shape[:2]
        assert depth.dtype == np.float32
        assert depth.min() == 0
        assert depth.max() == 1


@pytest.mark.parity
# Three rows: an array of that shape could be taken for channels first.
@pytest.mark.parametrize("photo", [COFFEE, ASTRONAUT[:3]], ids=["photo", "three rows"])
def test_maps_are_those_of_transformers(dpt_folder, photo):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.DPTForDepthEstimation.from_pretrained(dpt_folder)
    processor = transformers.DPTImageProcessorPil.from_pretrained(dpt_folder)
    with torch.no_grad():
        outputs = model(**processor(Image.fromarray(photo), return_tensors="pt"))
    image = Image.fromarray(outputs.predicted_depth[0].numpy())
    height, width = photo.shape[:2]
    raw = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    depth = load_depth_estimator(str(dpt_folder))([photo])[0]
    np.testing.assert_allclose(depth, (raw - raw.min()) / np.ptp(raw), rtol=0, atol=1e-5)
    if photo is COFFEE:
        # Its own resizing takes another bicubic kernel (a = -0.75), so it is only near.
        theirs = processor.post_process_depth_estimation(outputs, [(height, width)])
        theirs = theirs[0]["predicted_depth"].numpy()
        assert np.corrcoef(depth.ravel(), theirs.ravel())[0, 1] > 0.99


def test_the_same_photo_gives_the_same_map_in_any_company(dpt_folder):
    estimate = load_depth_estimator(dpt_folder)
    alone = estimate([COFFEE])[0]
    np.testing.assert_array_equal(estimate([ASTRONAUT, COFFEE])[1], alone)
    assert estimate([]) == []


def test_a_network_that_gives_a_constant_map_gives_zeros(copied_folder):
    def zero_head(weights):
        weights["head.head.4.weight"][:] = 0

    edit_weights(copied_folder, zero_head)
    assert not load_depth_estimator(copied_folder)([ASTRONAUT])[0].any()


def test_a_network_that_gives_nan_is_refused(copied_folder):
    def spoil_head(weights):
        weights["head.head.4.bias"][:] = np.nan

    edit_weights(copied_folder, spoil_head)
    with pytest.raises(ValueError, match=r"photo 0: the depth map has 16384 NaN"):
        load_depth_estimator(copied_folder)([ASTRONAUT])


def test_metric_depth_anything_is_turned_round(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from transformers.models.depth_anything import DepthAnythingForDepthEstimation

    backbone = transformers.Dinov2Config(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    options = {
        "backbone_config": backbone,
        "reassemble_hidden_size": 16,
        "patch_size": 14,
        "neck_hidden_sizes": [8, 8, 8, 8],
        "fusion_hidden_size": 8,
        "head_hidden_size": 8,
    }
    config = transformers.DepthAnythingConfig(**options, depth_estimation_type="metric")
    torch.manual_seed(0)
    model = DepthAnythingForDepthEstimation(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    model.save_pretrained(tmp_path)
    processor = transformers.DPTImageProcessorPil(size={"height": 28, "width": 28})
    processor.save_pretrained(tmp_path)
    photo = np.ascontiguousarray(ASTRONAUT[20:48, 40:68])
    depth = load_depth_estimator(tmp_path)([photo])[0]
    inputs = processor(Image.fromarray(photo), return_tensors="pt")
    with torch.no_grad():
        distance = model(**inputs).predicted_depth[0].numpy()
    assert distance.std() > 0
    np.testing.assert_allclose(depth, normalise_depth(1 / np.maximum(distance, 1e-3)), atol=1e-5)
    assert depth.ravel()[np.argmin(distance)] == 1


def test_photos_that_are_none_are_all_named(dpt_folder):
    estimate = load_depth_estimator(dpt_folder)
    photos = [ASTRONAUT, ASTRONAUT / 255, ASTRONAUT[..., 0]]
    with pytest.raises(ValueError, match=r"photo 1 has .*float64; photo 2 has shape \(128, 128\)"):
        estimate(photos)


# ---- loading


def test_weights_that_no_result_depends_on_may_be_missing(copied_folder, dpt_folder):
    def drop_unused(weights):
        for key in [key for key in weights if "fusion_stage.layers.0.residual_layer1" in key]:
            del weights[key]

    edit_weights(copied_folder, drop_unused)
    depth = load_depth_estimator(copied_folder)([COFFEE])[0]
    np.testing.assert_array_equal(depth, load_depth_estimator(dpt_folder)([COFFEE])[0])


def test_missing_weights_are_named(copied_folder):
    edit_weights(copied_folder, lambda weights: weights.pop("head.head.4.weight"))
    with pytest.raises(ValueError, match=r"lacks 1 weights, the first \['head\.head\.4\.weight'\]"):
        load_depth_estimator(copied_folder)


@pytest.mark.usefixtures("needs_torch")
def test_incomplete_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"lacks config\.json, preprocessor.*model\.safetensors"):
        load_depth_estimator(tmp_path)


def test_pickled_weights_are_not_read(copied_folder):
    (copied_folder / "model.safetensors").rename(copied_folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"lacks model\.safetensors"):
        load_depth_estimator(copied_folder)


def test_damaged_weights_are_refused(copied_folder):
    weights = copied_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be loaded as a depth estimator"):
        load_depth_estimator(copied_folder)


def test_other_kinds_of_models_are_refused(copied_folder):
    import transformers

    transformers.GLPNConfig().save_pretrained(copied_folder)
    with pytest.raises(ValueError, match=r"type 'glpn', expected one of .*dpt.*depth_anything"):
        load_depth_estimator(copied_folder)


def test_code_that_a_model_brings_is_not_run(copied_folder):
    (copied_folder / "evil.py").write_text(f"open({str(copied_folder / 'canary')!r}, 'w')\n")
    edit_config(
        copied_folder, model_type="evil", auto_map={"AutoConfig": "evil.Config"}, architectures=[]
    )
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_depth_estimator(copied_folder)
    assert not (copied_folder / "canary").exists()


@pytest.mark.parametrize(
    "path", ["./models/dpt", "/models/dpt", "a/b/c", "dpt", "../a", Path("a/b")]
)
@pytest.mark.usefixtures("needs_torch")
def test_paths_of_no_folder_are_refused_without_asking_the_hub(path):
    with pytest.raises(ValueError, match="is not a folder; expected"):
        load_depth_estimator(path)


def test_only_hub_ids_may_use_the_network(dpt_folder, monkeypatch):
    transformers = pytest.importorskip("transformers")
    asked = []

    def refuse(source, **options):
        asked.append((source, options["local_files_only"]))
        raise OSError("no network")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", refuse)
    for source in ("Intel/dpt-large", str(dpt_folder)):
        with pytest.raises(ValueError, match=r"cannot be loaded .*no network"):
            load_depth_estimator(source)
    assert asked == [("Intel/dpt-large", False), (str(dpt_folder), True)]


def test_missing_torch_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"needs PyTorch.*\[torch\]"):
        depth_estimator.load_depth_estimator("Intel/dpt-large")
