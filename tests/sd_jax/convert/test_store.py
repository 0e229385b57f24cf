"""Converted directories: equal bit for bit, whole or not there, and refused when damaged."""

from __future__ import annotations

import json
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest

import sd_jax.load
from sd_jax.convert import params_store, store
from sd_jax.convert.component import COMPONENTS
from sd_jax.convert.load import plan_loading
from sd_jax.convert.source import CheckpointError, open_source
from sd_jax.convert.store import is_converted, open_converted, save_model, save_plans
from sd_jax.files import open_tensors
from sd_jax.schedule import ScheduleConfig

SCHEDULE = ScheduleConfig(beta_end=0.02, prediction_type="v_prediction")
DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16]
EXTRAS = {
    "alphas_cumprod": np.linspace(0, 1, 7),
    "model_ema.decay": np.array(0.5, np.float32),
    "cond_stage_model.transformer.text_model.embeddings.position_ids": np.arange(7)[None],
}


def convert(path, output, **kwargs):
    plan = plan_loading(open_source(path), COMPONENTS)
    save_plans([plan], COMPONENTS, output, SCHEDULE, **kwargs)
    return plan


@pytest.fixture(scope="module")
def source(tmp_path_factory, state, files):
    """Returns a file with two components and tensors that no network uses."""
    tensors = state("ldm", "vae", "text_encoder") | EXTRAS
    return files.write(tmp_path_factory.mktemp("source") / "sd.safetensors", tensors)


@pytest.fixture(scope="module")
def original(source, tmp_path_factory):
    """Returns the converted directory of that file, which no test may change."""
    output = tmp_path_factory.mktemp("converted") / "sd"
    convert(source, output)
    return output


@pytest.fixture
def directory(original, tmp_path):
    """Returns a copy of the converted directory, to be damaged."""
    return shutil.copytree(original, tmp_path / "sd")


def same(one, other):
    assert one.config.vae == other.config.vae
    assert jax.tree.structure(one.params) == jax.tree.structure(other.params)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_equal_bit_for_bit(tmp_path, state, files, dtype):
    tensors = state("ldm", "vae", dtype=dtype)
    # Bits that a conversion may change: minus zero, a NaN with a payload, a subnormal.
    word = np.uint32 if np.dtype(dtype).itemsize == 4 else np.uint16
    odd = np.array([-np.inf, -0.0, 0.0, 0.0]).astype(dtype)
    odd.view(word)[2:] = (np.array(np.nan, dtype).view(word) | 5, 3)
    tensors["first_stage_model.post_quant_conv.bias"] = odd
    path = files.write(tmp_path / "vae.safetensors", tensors)
    convert(path, tmp_path / "out")
    loaded = sd_jax.load.load(tmp_path / "out")
    same(sd_jax.load.load(path), loaded)
    kept = np.asarray(loaded.params["vae"]["post_quant_conv"]["bias"])
    assert kept.dtype == dtype
    assert kept.tobytes() == odd.tobytes()


def test_everything_about_the_source_is_kept(source, original):
    plan = plan_loading(open_source(source), COMPONENTS)
    converted = open_converted(original, COMPONENTS)
    assert is_converted(original)
    assert converted.configs == plan.configs
    assert converted.schedule == SCHEDULE
    (origin,) = converted.origins
    assert origin.layout == "ldm"
    assert list(origin.records) == plan.records()
    assert {record.name for record in origin.records if record.path is None} == EXTRAS.keys()
    extras = open_tensors(original / origin.extras)
    assert extras.keys() == EXTRAS.keys()
    for name, array in EXTRAS.items():
        assert extras[name].dtype == array.dtype
        np.testing.assert_array_equal(extras[name].read(), array)
    assert converted.tokenizer is None


def test_schedule_and_tokenizer_of_a_folder(tmp_path, state, files):
    tensors = {name.removeprefix("vae/"): a for name, a in state("diffusers", "vae").items()}
    files.write(tmp_path / "in" / "vae" / "model.safetensors", tensors)
    (tmp_path / "in" / "tokenizer").mkdir()
    (tmp_path / "in" / "tokenizer" / "merges.txt").write_text("a b")
    (tmp_path / "in" / "vae" / "config.json").write_text('{"scaling_factor": 0.25}')
    convert(tmp_path / "in", tmp_path / "out")
    converted = open_converted(tmp_path / "out", COMPONENTS)
    assert (converted.tokenizer / "merges.txt").read_text() == "a b"
    assert converted.configs["vae"].scaling_factor == 0.25
    (origin,) = converted.origins
    assert origin.extras is None
    assert origin.hints == {"vae": {"scaling_factor": 0.25}}
    assert sd_jax.load.load(tmp_path / "out").config.schedule == SCHEDULE


def test_model_put_together_here(tmp_path, source):
    model = sd_jax.load.load(source)
    configs = {"vae": model.config.vae, "text_encoder": model.config.text_encoder}
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "vocab.json").write_text("{}")
    save_model(model.params, configs, tmp_path / "out", SCHEDULE, tokenizer=tmp_path / "words")
    same(model, sd_jax.load.load(tmp_path / "out"))
    converted = open_converted(tmp_path / "out", COMPONENTS)
    assert converted.origins == ()
    assert (converted.tokenizer / "vocab.json").is_file()


def test_unknown_components_are_left_alone(original):
    only_vae = [component for component in COMPONENTS if component.name == "vae"]
    assert open_converted(original, only_vae).configs.keys() == {"vae"}


def test_heads_and_averages_are_chosen_when_converting(original):
    for options in ({"num_heads": 4}, {"use_ema": True}):
        with pytest.raises(CheckpointError, match="is converted already"):
            sd_jax.load.load(original, **options)


def test_nothing_is_left_of_a_conversion_that_fails(tmp_path, source, monkeypatch):
    written = []

    def fail_at_the_second(folder, params):
        written.append(folder.name)
        if len(written) == 2:
            raise RuntimeError("disk full")
        folder.mkdir(parents=True)
        (folder / "array").write_text("x")

    monkeypatch.setattr(store, "save_params", fail_at_the_second)
    with pytest.raises(RuntimeError, match="disk full"):
        convert(source, tmp_path / "out")
    assert written == ["vae", "text_encoder"]
    assert list(tmp_path.iterdir()) == []


def test_existing_output_is_kept_unless_told(tmp_path, source, monkeypatch):
    output = tmp_path / "out"
    output.mkdir()
    (output / "precious").write_text("x")
    with pytest.raises(ValueError, match=r"out: is there already; .* --overwrite"):
        convert(source, output)
    assert (output / "precious").read_text() == "x"

    with monkeypatch.context() as patch:
        patch.setattr(store, "save_params", lambda folder, params: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            convert(source, output, overwrite=True)
    assert (output / "precious").read_text() == "x"

    reports = []
    convert(source, output, overwrite=True, report=reports.append)
    assert reports == ["vae", "text_encoder"]
    assert not (output / "precious").exists()
    assert list(tmp_path.iterdir()) == [output]
    same(sd_jax.load.load(source), sd_jax.load.load(output))


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(version=2), "version 1, found cnc_fgdm_jax version 2"),
        (lambda c: c.pop("version"), "expected format cnc_fgdm_jax version 1, found"),
        (lambda c: c.pop("components"), r"config\.json: 'components'"),
        (lambda c: c.pop("schedule"), r"config\.json: 'schedule'"),
        (lambda c: c.update(components=3), r"config\.json: "),
        (lambda c: c["components"].update(vae=[]), r"config\.json: "),
        (lambda c: c["components"]["vae"].update(width=3), "VAEConfig has no field width"),
        (
            lambda c: c["components"]["vae"].update(latent_channels="4"),
            "VAEConfig.latent_channels is '4', expected int",
        ),
        (
            lambda c: c["schedule"].update(prediction_type="sample"),
            "ScheduleConfig.prediction_type is 'sample'",
        ),
        (
            lambda c: c["components"].update(unet={}),
            r"config\.json names unet, but params/ has no such folder; .* copied in part",
        ),
    ],
)
def test_changed_config(directory, change, message):
    edit(directory / "config.json", change)
    with pytest.raises(CheckpointError, match=message):
        open_converted(directory, COMPONENTS)


@pytest.mark.parametrize("name", ["config.json", "source.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", "3"])
def test_damaged_json(directory, name, content):
    (directory / name).write_text(content)
    with pytest.raises(CheckpointError, match=name):
        open_converted(directory, COMPONENTS)
    with pytest.raises(CheckpointError, match=str(directory)):
        sd_jax.load.load(directory)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.pop("sources"),
        lambda c: c["sources"][0].pop("records"),
        lambda c: c["sources"][0].pop("layout"),
        lambda c: c["sources"][0].update(date=1),
        lambda c: c["sources"][0]["records"].append(["a", "b", "c", "d"]),
        lambda c: c.update(sources=[3]),
    ],
)
def test_changed_origin(directory, change):
    edit(directory / "source.json", change)
    with pytest.raises(CheckpointError, match=r"source\.json: not as this version writes it"):
        open_converted(directory, COMPONENTS)


@pytest.mark.parametrize("name", ["config.json", "source.json", "params", "params/vae"])
def test_missing_part(directory, name):
    path = directory / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(CheckpointError, match=str(directory)):
        sd_jax.load.load(directory)


def test_sizes_that_do_not_fit_the_arrays(directory):
    def change(content):
        content["components"]["text_encoder"].update(num_layers=3, hidden_size=25)

    edit(directory / "config.json", change)
    with pytest.raises(CheckpointError) as caught:
        sd_jax.load.load(directory)
    message = str(caught.value)
    assert "text_encoder: does not fit config.json" in message
    assert "- missing: layers_2/mlp/fc1/kernel" in message
    assert "- wrong shape: final_layer_norm/bias is (24,), expected (25,)" in message


def test_many_problems_are_cut(directory):
    edit(directory / "config.json", lambda c: c["components"]["vae"].update(layers_per_block=9))
    with pytest.raises(CheckpointError, match=r"- \.\.\. and \d+ more$") as caught:
        sd_jax.load.load(directory)
    assert str(caught.value).count("\n") == 41


def test_missing_metadata(directory):
    folder = directory / "params" / "vae"
    (folder / "_METADATA").unlink()
    with pytest.raises(CheckpointError, match=f"{folder}: .*metadata"):
        sd_jax.load.load(directory)


@pytest.mark.parametrize("kept", [0, 0.5])
def test_arrays_cut_short(tmp_path, kept):
    # One array alone: Orbax reads many at once, and the others' threads complain when one fails.
    folder = tmp_path / "params"
    params = {"kernel": np.random.default_rng(0).normal(size=(64, 512)).astype(np.float32)}
    params_store.save_params(folder, params)
    abstract = jax.eval_shape(lambda: params)
    np.testing.assert_array_equal(
        params_store.load_params(folder, abstract)["kernel"], params["kernel"]
    )
    for path in folder.glob("ocdbt.process_0/d/*"):
        path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(CheckpointError, match=f"{folder}: damaged, or copied in part"):
        params_store.load_params(folder, abstract)


def test_altered_values_are_told(tmp_path):
    folder = tmp_path / "params"
    params = {"kernel": np.random.default_rng(0).normal(size=(64, 512)).astype(np.float32)}
    params_store.save_params(folder, params)
    checksums = tmp_path / "params.json"
    checksums.write_text(checksums.read_text().replace(": ", ": 1"))
    with pytest.raises(CheckpointError, match="altered: kernel"):
        params_store.load_params(folder, jax.eval_shape(lambda: params))


def test_a_flipped_bit_is_told(tmp_path):
    folder = tmp_path / "params"
    params = {"kernel": np.random.default_rng(0).normal(size=(64, 512)).astype(np.float32)}
    params_store.save_params(folder, params)
    data = max(folder.glob("ocdbt.process_0/d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    with pytest.raises(CheckpointError):
        params_store.load_params(folder, jax.eval_shape(lambda: params))
