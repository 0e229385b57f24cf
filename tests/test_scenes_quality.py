"""The measurement of weights on the scenes, from a model to its report."""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from benchmarks.scenes_quality.figures import Figure, percent
from benchmarks.scenes_quality.measures import MEASURES, Taken, chosen, take
from benchmarks.scenes_quality.prior import as_picture
from benchmarks.scenes_quality.report import identity, write_report
from benchmarks.scenes_quality.segmentation import recalls, shares_of
from benchmarks.scenes_quality.settings import Settings
from benchmarks.scenes_quality.studio import Studio
from cnc_jax.condition import Condition
from cnc_jax.testing import smallest_config
from fgdm_jax.adapter import adapter_for
from input_pipeline.scenes import Scenes, foreground_image, known_pictures
from input_pipeline.scenes.judge import Judge
from input_pipeline.scenes.trials import occlusions, transfers
from launch.components import AnyConfig, components_of
from sd_jax.model import Model
from sd_jax.testing import random_params
from sd_jax.tokenizer import Tokenizer

TINY = smallest_config().unet
_FEW = Settings(scenes=3, strengths=(0.0, 1.0), draws=2)


@pytest.fixture(scope="module")
def judge():
    return Judge.of_scenes(100)


@pytest.fixture(scope="module")
def studio():
    small = smallest_config()
    fields = {field.name: getattr(small, field.name) for field in dataclasses.fields(small)}
    config = AnyConfig(
        **fields,
        adapter_segmentation=adapter_for(small.unet, 1),
        adapter_depth=adapter_for(small.unet, 1),
        adapter_background_depth=adapter_for(small.unet, 1),
        adapter_image=adapter_for(small.unet, 2),
    )
    model = Model(*random_params(components_of(), config, 0, ()))
    return Studio(model, Tokenizer.default(), batch_size=2, num_steps=2)


@pytest.fixture(scope="module")
def taken(studio, judge) -> Taken:
    return take(chosen([]), studio, judge, _FEW)


@pytest.fixture(scope="module")
def folder(taken, studio, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quality")
    write_report(folder, taken, ["scenes-prior"], studio, _FEW)
    return folder


def test_a_whole_model_has_all_figures(taken, folder):
    content = json.loads((folder / "quality.json").read_text())
    assert content["left_out"] == {}
    names = ("psnr_image", "caption_both", "occlusion", "look", "leakage", "segmentation_1")
    for name in (*names, "following", "error_depth", "error_background_depth"):
        figure = content["figures"][name]
        assert np.isfinite(figure["value"])
        # Of a scene, several solids are looked for in images.
        assert figure["scenes"] > 3 if name == "following" else figure["scenes"] == 3
    occlusion = content["figures"]["occlusion"]
    assert set(occlusion["more"]) == {
        "the model with swapped layers",
        "the model with text alone",
    }
    assert list(content["figures"]["look"]["more"]) == ["strength 0"]
    assert content["settings"]["num_steps"] == 2
    assert content["checkpoints"]["scenes-prior"]["bytes"] > 10_000
    assert content["date"]
    assert content["machine"]


def test_contact_sheets_show_every_kind_of_case(folder):
    names = ("autoencoder", "captions", "occlusion", "looks", "segmentation", "following")
    for name in (*names, "depth", "background_depth"):
        with Image.open(folder / f"{name}.png") as sheet:
            assert min(sheet.size) > 300


def test_the_plot_is_drawn(folder):
    pytest.importorskip("matplotlib")
    with Image.open(folder / "quality.png") as plot:
        assert plot.size[0] > 800


def test_random_weights_meet_no_target_that_takes_learning(taken):
    figures = {figure.name: figure for figure in taken.figures}
    for name in ("psnr_image", "caption_place", "segmentation_2"):
        assert not figures[name].is_met


class Painter(Studio):
    """Draws what it is told to, in place of a trained model; the autoencoder is the real one."""

    answers: ClassVar[dict[str, Any]] = {}
    shown: ClassVar[list[Any]] = []
    given: ClassVar[dict[str, Any]] = {}

    def compose(self, captions, label, condition_of=None, image_guidance_scale=None):
        del captions, condition_of, image_guidance_scale
        return self.answers[label]

    def exemplars(self, pictures):
        self.shown[:] = pictures
        return super().exemplars(pictures)

    def maps(self, captions, variable, num_draws, graph=None, given=None):
        del captions, graph
        self.given.update(given or {})
        yield from self.answers[variable][:num_draws]


def test_figures_are_the_verdicts_on_what_was_drawn(studio, judge):
    """Right pictures reach the ceilings and wrong ones the floors, each in its own figure."""
    world = Scenes(1)
    records = [world.arrays(index) for index in range(3)]
    hidden, moved = (list(itertools.islice(kind(1), 3)) for kind in (occlusions, transfers))
    truth = np.stack([as_picture("segmentation", item["segmentation"]) for item in records])
    depths = {
        name: np.stack([as_picture(name, item[name]) for item in rows])
        for name, rows in (
            ("depth", records),
            ("background_depth", records[1:] + records[:1]),
        )
    }
    painter = Painter(studio.model, studio.tokenizer, batch_size=2)
    painter.answers.update(
        {
            "captions": np.stack([item["image"] for item in records]),
            "occlusion": np.stack([known_pictures.true_picture(trial) for trial in hidden]),
            "layers swapped": np.stack([known_pictures.wrong_order(trial) for trial in hidden]),
            "text alone": np.stack([known_pictures.from_text_alone(trial) for trial in hidden]),
            "looks, strength 0": np.stack([known_pictures.true_picture(trial) for trial in moved]),
            "looks, strength 1": np.stack([known_pictures.look_inside(trial) for trial in moved]),
            # The first draw shows nothing, the second everything.
            "segmentation": [-np.ones_like(truth), truth],
            "image": [np.stack([as_picture("image", item["image"]) for item in records])],
            # Depth is right, background depth that of the scene before.
            **{name: [depth] for name, depth in depths.items()},
            "maps left out": np.stack([item["image"] for item in records[-1:] + records[:-1]]),
        }
    )
    names = ["captions", "occlusion", "looks", "segmentation", "depths", "following"]
    found = {figure.name: figure for figure in take(names, painter, judge, _FEW).figures}
    names = ("caption_place", "caption_colour", "occlusion", "look", "leakage", "following")
    for name in names:
        assert found[name].value == found[name].ceiling, name
    assert found["look"].more == {"strength 0": found["look"].floors["the scene itself"]}
    donors = [world.arrays(trial.donor.index) for trial in moved]
    np.testing.assert_array_equal([pair[0] for pair in painter.shown], [d["image"] for d in donors])
    take(["looks"], painter, judge, dataclasses.replace(_FEW, exemplar="foreground"))
    alone = [foreground_image(item["image"], item["mask"]) for item in donors]
    np.testing.assert_array_equal([pair[0] for pair in painter.shown], alone)
    assert found["occlusion"].more == {
        "the model with swapped layers": found["occlusion"].floors["wrong order"],
        "the model with text alone": found["occlusion"].floors["text alone"],
    }
    assert found["following"].more["overlap"] == found["following"].more["overlap, true images"]
    assert found["following"].value > found["following"].more["the model with text alone"]
    np.testing.assert_array_equal(painter.given["segmentation"], truth)
    np.testing.assert_array_equal(painter.given["depth"], depths["depth"])
    assert set(painter.given) == {"segmentation", "foreground_depth", "depth"}
    assert found["error_depth"].value == 0
    wrong = found["error_background_depth"]
    assert wrong.value == wrong.floors["true maps of other scenes"] > 1
    assert (found["segmentation_1"].value, found["segmentation_2"].value) == (50, 100)
    assert found["segmentation_1"].more == {"mean recall": 50}


def test_of_a_single_draw_there_is_one_figure(judge):
    once = dataclasses.replace(_FEW, draws=1)
    figures = take(["segmentation"], None, judge, once).figures
    assert [figure.name for figure in figures] == ["segmentation_1"]
    assert figures[0].target == 80


def test_without_a_model_ceilings_and_floors_are_there(judge, tmp_path):
    taken = take(chosen(["compose", "factors"]), None, judge, _FEW)
    assert set(taken.left_out) == set(MEASURES) - {"autoencoder", "captions"}
    figures = {figure.name: figure for figure in taken.figures}
    assert all(figure.value is None and figure.is_met is None for figure in taken.figures)
    assert figures["occlusion"].ceiling > figures["occlusion"].floors["wrong order"]
    assert figures["look"].ceiling > figures["look"].floors["the scene itself"]
    assert figures["leakage"].ceiling < figures["leakage"].floors["the look on all objects"]
    assert figures["segmentation_1"].ceiling == 100
    write_report(tmp_path, taken, [], None, _FEW)
    assert (tmp_path / "occlusion.png").is_file()


def test_what_a_checkpoint_lacks_is_left_out_and_said(judge, capsys):
    prior = Studio.open(["scenes-prior"], batch_size=2)
    prior.model.params.pop("unet", None)
    taken = take(["autoencoder", "looks"], prior, judge, _FEW)
    assert list(taken.left_out) == ["looks"]
    assert "local_fuser" in taken.left_out["looks"]
    assert "local_fuser" in capsys.readouterr().err
    assert taken.figures[0].value > 15


def test_three_layers_are_measured_where_they_can_be(studio):
    config = studio.model.config
    three = dataclasses.replace(config.local_fuser, num_layers=3)
    config = dataclasses.replace(config, local_fuser=three)
    changed = dataclasses.replace(studio, model=Model(studio.model.params, config))
    assert MEASURES["occlusion"].problem(changed) == ""
    assert "3 layers" in MEASURES["looks"].problem(changed)


def test_images_of_other_parents_are_left_out(studio):
    config = dataclasses.replace(studio.model.config, adapter_image=adapter_for(TINY, 1))
    changed = dataclasses.replace(studio, model=Model(studio.model.params, config))
    assert "1 parents, expected segmentation and depth" in MEASURES["following"].problem(changed)
    assert MEASURES["following"].problem(studio) == ""


def test_pictures_depend_on_their_case_and_not_on_their_batch(studio):
    texts = ["a red ball", "a blue box in the snow", "a green cone"]
    depth = np.random.default_rng(0).random((3, 2, 64, 64, 3)).astype(np.float32)
    together = []

    def condition(rows):
        together.append(list(rows))
        return Condition(depth_maps=depth[list(rows)])

    images = studio.compose(texts, "test", condition).astype(int)
    assert images.shape == (3, 64, 64, 3)
    assert together == [[0, 1], [2, 2]]
    twice = studio.compose(texts[:1], "test", lambda rows: Condition(depth_maps=depth[[0, 2]]))
    np.testing.assert_allclose(twice[0], images[0], atol=1)
    other = studio.compose(texts[1:2], "test", lambda rows: Condition(depth_maps=depth[[0, 2]]))
    assert np.abs(other[0] - images[0]).max() > 1


def test_recall_of_true_maps_is_full_and_of_empty_ones_is_none():
    values = Scenes(1, fields=("segmentation",)).arrays(0)["segmentation"]
    picture = as_picture("segmentation", values)
    shown = sorted(set(values.ravel().tolist()))
    shares = shares_of(np.stack([picture, -np.ones_like(picture)]))
    found = recalls(shares, [shown[:1], shown])
    assert found.tolist() == [1.0, 0.0]


def test_names_of_measures_and_groups():
    assert chosen(["compose"]) == ["occlusion", "looks"]
    assert chosen(["segmentation", "prior"]) == ["autoencoder", "captions", "segmentation"]
    with pytest.raises(ValueError, match="only: shape is no measure; choose some of prior,"):
        chosen(["shape"])


def test_targets_point_both_ways():
    most = Figure("a", "a", "%", 10, value=9.0, target=10.0, at_most=True)
    assert most.is_met
    assert not dataclasses.replace(most, value=11.0).is_met
    least = dataclasses.replace(most, at_most=False)
    assert not least.is_met
    assert least.to_json()["standard_error"] == pytest.approx(9.05, abs=0.01)
    assert percent([True, False, False, False]) == 25


def test_the_hash_of_a_checkpoint_follows_its_content(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    first = identity(str(tmp_path))
    (tmp_path / "a").write_bytes(b"2")
    assert identity(str(tmp_path))["sha256"] != first["sha256"]
    assert first["bytes"] == 1
