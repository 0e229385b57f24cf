from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest

from input_pipeline.stream import Helpers, StreamConfig, batches, plan_of
from input_pipeline.stream.pack import batch_bytes
from tests.input_pipeline.stream.fakes import PALETTES, PatternSource, tokenize

GOOD: dict[str, Any] = {"keys": ("image",), "batch_size": 6, "sizes": ((64, 64),)}


def refusal(
    sources: tuple[PatternSource, ...] = (PatternSource(),),
    helpers: Helpers | None = None,
    run: dict[str, Any] | None = None,
    **settings: Any,
) -> str:
    with pytest.raises(ValueError, match="the stream cannot start: ") as error:
        batches(sources, StreamConfig(**GOOD | settings), helpers=helpers, **(run or {}))
    return str(error.value)


SETTINGS = {
    "unknown key": ({"keys": ("image", "colour")}, "keys has 'colour', expected some of image,"),
    "no keys": ({"keys": ()}, "expected at least one"),
    "key twice": ({"keys": ("image", "image")}, "each once"),
    "size": ({"sizes": ((64, 100),)}, "sizes has (64, 100), expected (height, width)"),
    "size of nothing": ({"sizes": ((0, 64),)}, "positive multiples of 64"),
    "no sizes": ({"sizes": ()}, "sizes is empty"),
    "same shape": ({"sizes": ((64, 128), (128, 256))}, "same aspect ratio"),
    "batch": ({"batch_size": 0}, "batch_size is 0"),
    "seed": ({"seed": -1}, "seed is -1"),
    "flip": ({"flip": 1.5}, "flip is 1.5"),
    "not a number": ({"flip": float("nan")}, "flip is nan"),
    "scale": ({"min_scale": 0}, "min_scale is 0"),
    "crop": ({"crop": "left"}, "crop is 'left', expected centre or random"),
    "caption": ({"caption": "last"}, "caption is 'last'"),
    "policy": ({"bad_records": "ignore"}, "bad_records is 'ignore', expected fail or skip"),
    "limit": ({"max_bad_records": -1}, "max_bad_records is -1"),
    "weight": ({"weights": (0.0,)}, "expected positive numbers"),
    "weights": ({"weights": (1, 2)}, "weights has 2 numbers, expected one for each of 1 sources"),
    "drop of mask": ({"drop": {"masks": 0.1}}, "the mask is never dropped"),
    "unknown drop": ({"drop": {"depth_maps": 0.1}}, "drop has 'depth_maps', expected some of"),
    "drop": ({"drop": {"caption": 2}}, "drop of 'caption' is 2, expected a probability"),
    "latents cut": ({"keys": ("latent_mean",), "crop": "random"}, "neither cut nor mirrored"),
    "latents mirrored": ({"keys": ("latent_logvar",), "flip": 0.5}, "neither cut nor mirrored"),
    "tokenizer": ({"keys": ("input_ids",)}, "Helpers(tokenizer=...)"),
    "size of exemplars": (
        {"keys": ("exemplar_images",)},
        "key 'exemplar_images' needs Helpers(exemplar_size=...), which is None, expected",
    ),
    "palette": ({"keys": ("segmentation",)}, "unknown colours (there is no palette 'two'"),
    "empty text": (
        {"keys": ("text_embeddings",), "drop": {"caption": 0.1}},
        "Helpers(empty_text_embedding=...)",
    ),
}


@pytest.mark.parametrize(("settings", "problem"), SETTINGS.values(), ids=SETTINGS)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], problem: str) -> None:
    assert problem in refusal(**settings)


RUNS = {
    "processes": ({"process_count": 4}, "batch_size is 6, expected a multiple of the 4"),
    "process": ({"process_index": 2, "process_count": 2}, "process_index is 2, expected 0 to"),
    "no process": ({"process_count": 0}, "process_index is 0"),
    "step": ({"start_step": -1}, "start_step is -1"),
    "workers": ({"num_workers": -1}, "num_workers is -1"),
    "prefetch": ({"num_workers": 1, "prefetch": 0}, "prefetch is 0, expected at least 1"),
}


@pytest.mark.parametrize(("run", "problem"), RUNS.values(), ids=RUNS)
def test_runs_that_do_not_fit_are_refused(run: dict[str, Any], problem: str) -> None:
    assert problem in refusal(run=run)


def test_sources_that_do_not_fit_are_refused() -> None:
    assert "sources is empty" in refusal(())
    assert "source 'none' has no records" in refusal((PatternSource("none", 0),))
    assert "exemplar_size=...), which is 0, expected" in refusal(
        keys=("exemplar_images",), helpers=Helpers(exemplar_size=0)
    )
    bare = PatternSource("bare", fields=("id", "image"))
    message = refusal((bare,), keys=("edge_maps", "exemplar_images"))
    assert "'bare' lacks the fields mask, background, which the keys edge_maps, exempl" in message
    captions = PatternSource("text", fields=("id", "captions"))
    message = refusal((PatternSource(), captions), keys=("image", "masks"))
    assert "source 'text' lacks the fields image, mask, which the keys image, masks" in message
    assert "no source has the field 'depth'" in refusal((captions,), keys=("depth", "captions"))
    palettes = {"two": PALETTES["two"][:10]}
    message = refusal(keys=("segmentation",), helpers=Helpers(palettes=palettes))
    assert "palette 'two' is uint8 of shape (10, 3)" in message


def test_all_problems_are_told_at_once() -> None:
    message = refusal(
        (PatternSource(fields=("id",)),),
        keys=("image", "colour", "input_ids", "latent_mean"),
        sizes=((64, 65),),
        crop="random",
        drop={"mask": 0.1},
        weights=(1, 2),
        run={"process_count": 4},
    )
    for problem in (
        "'colour'",
        "(64, 65)",
        "latents",
        "never dropped",
        "weights has 2",
        "4 processes",
        "lacks the fields image, captions, latent_mean",
        "tokenizer",
    ):
        assert problem in message


def test_sizes_of_a_source_must_be_those_of_its_records() -> None:
    source = PatternSource()
    source.sizes = lambda: np.ones((3, 2), int)  # type: ignore[method-assign]
    config = StreamConfig(**GOOD | {"sizes": ((64, 64), (64, 128))})
    with pytest.raises(ValueError, match=r"sizes of shape \(3, 2\) and type int64, expected a pos"):
        plan_of([source], config)


def test_records_of_unknown_size_count_as_the_first() -> None:
    source = PatternSource(record_sizes=((64, 128),))
    config = StreamConfig(**GOOD | {"sizes": ((64, 64), (64, 128))})
    assert {plan_of([source], config).bucket(step) for step in range(5)} == {1}
    source.sizes = None  # type: ignore[assignment,method-assign]
    assert {plan_of([source], config).bucket(step) for step in range(5)} == {0}


def test_batches_that_shared_memory_cannot_hold_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = shutil._ntuple_diskusage(2**26, 0, 2**26)  # type: ignore[attr-defined]
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    config = StreamConfig(("image", "depth_maps"), 32)
    with pytest.raises(ValueError, match=r"64 MiB free, and 4 batches of 32 examples need about"):
        batches([PatternSource()], config, num_workers=1)
    batches([PatternSource()], config).close()


@pytest.mark.parametrize("key", ["edge_maps", "exemplar_images"])
def test_all_pictures_count_as_memory(key: str) -> None:
    helpers = Helpers(exemplar_size=128)
    config = StreamConfig((key,), 4, sizes=((128, 128),))
    assert batch_bytes(config, helpers, 4) == 4 * 4 * 2 * 128 * 128 * 3


def test_good_settings_are_not_refused() -> None:
    with batches(
        [PatternSource()],
        StreamConfig(("input_ids",), 4, sizes=((64, 64),)),
        helpers=Helpers(tokenizer=tokenize),
    ) as stream:
        assert next(stream)["input_ids"].shape == (4, 77)
