"""From a request to the config and the files of `launch.sample`, without a model."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from launch.demo import compose_run, draw_run
from launch.demo.compose_request import PICTURES, read_compose_request, value_names
from launch.demo.examples import write_examples
from launch.demo.fields import Fields
from launch.demo.folders import Folders
from launch.demo.models import SMALL, Composing, Graph, Usual, find_composing, find_drawing
from launch.demo.settings import Limits, Settings
from launch.loaded import LoadedModels
from launch.setting_checks import RequestError

SIZE = 64
STABLE_DIFFUSION = Usual()


def settings_of(folder: Path, **changes: Any) -> Settings:
    usual: dict[str, Any] = {
        **{"checkpoint": "model", "fgdm_checkpoint": "model", "graph": "", "dtype": "float32"},
        **{"depth_estimator": "dpt", "local_condition": "depth", "size": 0},
        **{"workdir": folder, "limits": Limits()},
    }
    return Settings(**{**usual, **changes})


class Given:
    """Files in a folder of the page, and the request that names them."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.settings = settings_of(folder, **changes)
        self.folders = Folders(folder, 12, 10)

    def file(self, name: str, values: np.ndarray) -> dict[str, Any]:
        path = self.settings.workdir / f"{name}.png"
        Image.fromarray(values).save(path)
        return {"path": str(path)}

    def config(
        self, monkeypatch, layers: int = 2, usual: Usual = STABLE_DIFFUSION, **changes: Any
    ) -> Any:
        """Returns the config that sampling would get."""
        values: dict[str, Any] = {
            **{"prompt": "a ball", "negative_prompt": None, "photo_rule": "v2", "seed": 3},
            **{"height": SIZE, "width": SIZE, "num_images": 6, "num_steps": 5},
            **{"guidance_scale": 7.5, "image_guidance_scale": 0, "sampler": "ddim"},
        }
        for index in range(layers):
            values |= {f"{name}_{index}": None for name in PICTURES}
            values |= {f"gain_{index}": 1, f"strength_{index}": 1}
        assert set(value_names(layers)) == set(values)
        request = read_compose_request(
            {**values, **changes},
            Fields(self.settings.limits, self.folders),
            self.settings,
            Composing(layers, True, True, SIZE, usual),
        )
        monkeypatch.setattr(compose_run, "sample_from_config", lambda config, models: config)
        folder = self.folders.new_request()
        return compose_run.compose(request, self.settings, folder, LoadedModels())


@pytest.fixture
def given(tmp_path):
    return Given(tmp_path)


def read(path: str) -> np.ndarray:
    return np.asarray(Image.open(path))


def box() -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[16:48, 16:48] = 255
    return mask


def test_nothing_but_a_prompt_is_text_to_image(given, monkeypatch):
    config = given.config(monkeypatch)
    assert (config.depth_maps, config.exemplars, config.masks) == ("", "", "")
    assert (config.prompt, config.seed, config.num_images, config.batch_size) == ("a ball", 3, 6, 4)
    assert (config.depth_gains, config.exemplar_strengths) == ("1", "1")


def test_layers_left_out_are_marked_and_depth_keeps_its_sixteen_bits(given, monkeypatch):
    depth = np.linspace(0, 65535, SIZE * SIZE).astype(np.uint16).reshape(SIZE, SIZE)
    config = given.config(monkeypatch, depth_1=given.file("depth", depth), gain_1=0.5)
    left_out, path = json.loads(config.depth_maps)
    assert left_out == "-"
    np.testing.assert_array_equal(read(path), depth)
    assert config.depth_gains == "1.0,0.5"
    ((shown, label),) = json.loads((Path(path).parent / "conditions.json").read_text())
    assert label == "depth 2"
    assert abs(int(read(shown).max()) - 128) <= 1


def test_depth_of_photos_is_taken_by_the_rule(given, monkeypatch):
    photo = np.full((SIZE, SIZE, 3), 100, np.uint8)
    seen = []

    def estimate(photos: list[np.ndarray]) -> list[np.ndarray]:
        seen.append(photos[0])
        return [np.full((SIZE, SIZE), 0.5, np.float32)]

    monkeypatch.setattr(compose_run, "_estimator", lambda folder: estimate)
    files = {"photo_0": given.file("photo", photo), "mask_0": given.file("mask", box())}
    outside = box() == 0
    for rule, photo_is_cut, depth_is_cut in (
        *(("v1", False, False), ("v2", True, False), ("v3", False, True)),
    ):
        with warnings.catch_warnings():
            # Of v1: the mask does nothing there.
            warnings.simplefilter("ignore", UserWarning)
            config = given.config(monkeypatch, photo_rule=rule, **files)
        assert (seen[-1][outside] == 0).all() == photo_is_cut, rule
        assert (seen[-1][~outside] == 100).all()
        depth = read(json.loads(config.depth_maps)[0])
        assert (depth[outside] == 0).all() == depth_is_cut, rule
        assert (depth[~outside] > 30_000).all()
        assert config.photos == ""


def test_edges_are_taken_where_the_model_was_trained_on_them(tmp_path, monkeypatch):
    given = Given(tmp_path, local_condition="canny", depth_estimator="")
    photo = np.repeat(box()[..., None], 3, -1)
    config = given.config(monkeypatch, photo_0=given.file("photo", photo))
    assert config.local_condition == "canny"
    edges = read(json.loads(config.depth_maps)[0])
    assert 0 < (edges > 0).mean() < 0.1


def test_masks_are_completed_for_exemplars(given, monkeypatch):
    grey = np.full((SIZE, SIZE, 3), 100, np.uint8)
    depth = (box() // 2).astype(np.uint8)
    config = given.config(
        monkeypatch,
        layers=4,
        exemplar_0=given.file("look", grey),
        mask_0=given.file("mask", box()),
        depth_1=given.file("depth", depth),
    )
    masks = [read(path) for path in json.loads(config.masks)]
    np.testing.assert_array_equal(masks[0] > 0, box() > 0)
    np.testing.assert_array_equal(masks[1] > 0, box() > 0)
    assert masks[2].max() == 0
    with pytest.raises(RequestError, match=r"Layer 2: another layer has a mask"):
        given.config(
            monkeypatch,
            layers=3,
            mask_0=given.file("mask", box()),
            exemplar_1=given.file("look", grey),
        )


def test_masks_alone_are_told_to_do_nothing(given, monkeypatch):
    with pytest.warns(UserWarning, match="masks do nothing here"):
        config = given.config(monkeypatch, mask_0=given.file("mask", box()))
    assert config.masks == ""


@pytest.mark.parametrize(
    ("names", "changes", "expected"),
    [
        (("photo_0",), {"depth_estimator": ""}, "Layer 1, photo: there is no depth estimator"),
        (("photo_0", "depth_0"), {}, "Layer 1: a depth map and a photo are both given"),
    ],
)
def test_what_cannot_be_met(tmp_path, monkeypatch, names, changes, expected):
    given = Given(tmp_path, **changes)
    files: dict[str, Any] = {
        name: given.file(name, np.zeros((SIZE, SIZE, 3), np.uint8)) for name in names
    }
    with pytest.raises(RequestError, match=expected):
        given.config(monkeypatch, **files)


def test_a_faulty_file_is_told_without_its_path(given, monkeypatch):
    sent = given.file("look", np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    path = Path(sent["path"])
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(RequestError, match="Layer 2, exemplar: the file") as caught:
        given.config(monkeypatch, exemplar_1=sent)
    assert str(given.settings.workdir) not in str(caught.value)


def test_maps_are_given_as_they_are(given, monkeypatch):
    graph = Graph("chain", "", ("segmentation", "depth"), ("segmentation", "depth"))
    drawn = draw_run.Drawn(graph, {"prompt": "a ball", "map_steps": 5}, ())
    monkeypatch.setattr(draw_run, "draw_from_config", lambda config, models: config)
    deep = np.full((SIZE, SIZE), 40_000, np.uint16)
    maps = {"depth": Path(given.file("a,b", deep)["path"])}
    folder = given.folders.new_request()
    config: Any = draw_run.draw_image(
        drawn, maps, {"seed": 9}, given.settings, folder, LoadedModels()
    )
    (item,) = json.loads(config.given)
    name, _, path = item.partition("=")
    assert (name, config.wanted, config.seed, config.prompt) == ("depth", "image", 9, "a ball")
    np.testing.assert_array_equal(read(path), deep)


def test_what_was_drawn_from_a_map_goes_with_it(tmp_path):
    graph = Graph(
        *("own", "segmentation, depth<segmentation, normal<depth, image<segmentation+normal"),
        maps=("segmentation", "depth", "normal"),
        seen=("segmentation", "normal"),
    )
    pictures = tuple((f"/{seed}_{name}.png", seed, name) for name in graph.maps for seed in (3, 4))
    drawn = draw_run.Drawn(graph, {}, pictures)
    whole = {name: Path(f"/4_{name}.png") for name in graph.seen}
    assert draw_run.maps_to_keep(drawn, 4, whole) == whole
    # Depth, which the image does not see, stands between the two.
    assert draw_run.maps_to_keep(drawn, 4, {**whole, "segmentation": None}) == {}
    without = {"segmentation": whole["segmentation"]}
    assert draw_run.maps_to_keep(drawn, 4, {**whole, "normal": None}) == without
    edited = {"normal": tmp_path / "edited.png"}
    assert draw_run.maps_to_keep(drawn, 4, {"segmentation": None, **edited}) == edited


def test_examples_of_looks_have_no_text(tmp_path):
    examples = write_examples(tmp_path, SIZE)
    assert [item.image_guidance_scale for item in examples] == [0] * 6 + [2, 2]
    assert [bool(item.prompt) for item in examples] == [True] * 6 + [False] * 2
    first, second = examples[-2:]
    for ours, theirs in zip(first.depths, second.depths, strict=True):
        np.testing.assert_array_equal(read(ours), read(theirs))
    for ours, theirs in zip(first.exemplars, second.exemplars, strict=True):
        assert np.abs(read(ours).astype(int) - read(theirs)).mean() > 20
    assert read(first.picture).shape == (2 * SIZE, 2 * SIZE, 3)
    assert len(write_examples(tmp_path, SIZE, takes_exemplars=False)) == 6


def test_three_layers_are_composed_beside_the_drawing_weights(tmp_path):
    settings = settings_of(tmp_path, checkpoint="scenes-three", fgdm_checkpoint="scenes")
    composing = find_composing(settings)
    assert (composing.layers, composing.takes_exemplars) == (3, False)
    assert set(find_drawing(settings).graphs) == {"chain", "layered"}


def test_only_the_newest_folders_stay(tmp_path):
    folders = Folders(tmp_path, 3, 2)
    made = []
    for number in range(6):
        made.append(folders.new_request())
        os.utime(made[-1], (number, number))
        upload = tmp_path / f"{number:064x}"
        upload.mkdir()
        os.utime(upload, (number, number))
    other = tmp_path / "notes"
    other.mkdir()
    newest = folders.new_request()
    assert sorted((tmp_path / "requests").iterdir()) == sorted([*made[-2:], newest])
    assert [path.name for path in tmp_path.glob("0*")] == [f"{5:064x}"]
    assert other.is_dir()


def test_what_the_checkpoint_can_do_is_told_from_its_sizes(checkpoint, tmp_path):
    settings = settings_of(tmp_path, checkpoint=str(checkpoint), fgdm_checkpoint=str(checkpoint))
    assert find_composing(settings) == Composing(2, True, True, SIZE, SMALL)
    drawing = find_drawing(settings)
    # The adapter of the image sees two maps, so that it cannot be drawn from one.
    assert set(drawing.graphs) == {"controlnet", "chain", "layered"}
    assert drawing.graphs["chain"].seen == ("segmentation", "depth")
    assert (drawing.size, drawing.map_size) == (SIZE, SIZE)


def test_a_checkpoint_that_cannot_draw_says_why(tmp_path, checkpoint):
    settings = settings_of(tmp_path, fgdm_checkpoint=str(tmp_path / "none"))
    drawing = find_drawing(settings)
    assert not drawing.graphs
    assert any("none" in reason for reason in drawing.reasons)


def test_a_model_of_small_pictures_is_sampled_as_it_was_measured(tmp_path, monkeypatch):
    small = find_composing(settings_of(tmp_path, checkpoint="scenes")).usual
    assert small == Usual(3.0, "dpmpp_2m", "trailing")
    given = Given(tmp_path)
    assert given.config(monkeypatch).spacing == "leading"
    assert given.config(monkeypatch, usual=small).spacing == "trailing"
