"""Events of the page Draw, sent straight to the server: as it would, and as nobody should."""

from __future__ import annotations

import dataclasses
import uuid
from typing import Any

import numpy as np
import pytest

from tests.launch.demo.hostile_files import bomb, png, zipped
from tests.launch.demo.server_process import Server

STEPS = 5

pytestmark = pytest.mark.usefixtures("_unharmed")


@dataclasses.dataclass(frozen=True)
class Picked:
    """A browser's visit in which a set of maps was drawn and picked; and what it then shows."""

    session: str
    maps: dict[str, Any]


@pytest.fixture(scope="module")
def picked(server: Server) -> Picked:
    session, draw = uuid.uuid4().hex, server.event("draw", "click")
    values = server.values(draw, **{"graph": "chain", "num-draws": 1, "map-steps": STEPS})
    assert "Done in" in said(server.call(draw, values, session=session))
    chosen = {"index": 0, "value": None}
    message = server.call(
        server.event("maps", "select"), [None], session=session, event_data=chosen
    )
    assert message["success"], message
    fields = (item["value"] for item in message["output"]["data"][3:5])
    return Picked(session, dict(zip(("picked-0", "picked-1"), fields, strict=True)))


def said(message: dict[str, Any]) -> str:
    """Returns what the page says at the end of an event."""
    assert message["success"], message
    (status,) = (item for item in message["output"]["data"] if 'class="status' in str(item))
    return status


@pytest.mark.parametrize(
    ("taken_away", "given"),
    [
        ((), ["depth", "segmentation"]),
        (("picked-1",), ["segmentation"]),
        # Its depth was drawn from it.
        (("picked-0",), []),
    ],
)
def test_a_map_that_is_taken_away_is_drawn_anew(server, picked, taken_away, given):
    before = set(server.requests())
    maps = {**picked.maps, **dict.fromkeys(taken_away)}
    sample = server.event("sample", "click")
    values = server.values(sample, **maps, **{"image-steps": STEPS})
    assert "Done in" in said(server.call(sample, values, session=picked.session))
    (folder,) = set(server.requests()) - before
    assert sorted(path.stem for path in folder.glob("*.png")) == given


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"num-draws": float("nan")},
            "Sets of maps: got nan, expected a whole number from 1 to 20",
        ),
        ({"num-draws": 10**9}, "Sets of maps: got 1000000000, expected a whole number"),
        ({"num-draws": 10**400}, "Sets of maps: got 1000"),
        ({"num-draws": None}, "Sets of maps: got None, expected a whole number"),
        ({"map-steps": 10**9}, "Map steps: got 1000000000, expected a whole number from 1 to 100"),
        ({"map_guidance": float("inf")}, "Map guidance: got inf, expected a number from 1 to 20"),
        ({"map_guidance": 10**400}, "Map guidance: got 1000"),
        ({"map_height": 100}, "Map height: got 100, expected a multiple of 64 from 64 to 1024"),
        ({"map_width": 2**20}, "Map width: got 1048576, expected a multiple of 64"),
        ({"graph": "none"}, "Graph: got none, expected one of controlnet, chain, layered"),
        ({"graph": {"a": 1}}, "Graph: got {&#x27;a&#x27;: 1}, expected one of"),
        ({"palette": "../coco"}, "Palette: got ../coco, expected one of as trained"),
        ({"palette": ["coco"]}, "Palette: got [&#x27;coco&#x27;], expected one of"),
        ({"draw-seed": 2**40}, "Seed (-1 is random): got 1099511627776"),
        ({"draw-prompt": "a" * 10_000}, "Prompt: got 10000 letters, expected at most 2000"),
        ({"objects_to_look_for": [1]}, "Objects: got [1], expected a text"),
    ],
)
def test_maps_that_cannot_be_drawn(server, changes, expected):
    before = server.requests()
    draw = server.event("draw", "click")
    text = said(server.call(draw, server.values(draw, **changes)))
    assert "the request cannot be met" in text
    assert expected in text
    assert server.requests() == before


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"draw-num-images": float("nan")},
            "Images: got nan, expected a whole number from 1 to 12",
        ),
        ({"draw-num-images": 10**9}, "Images: got 1000000000, expected a whole number"),
        ({"image-steps": 10**400}, "Image steps: got 1000"),
        ({"image-steps": "5"}, "Image steps: got 5, expected a whole number from 1 to 100"),
        ({"image_guidance": float("nan")}, "Image guidance: got nan, expected a number"),
        ({"height": 0}, "Height: got 0, expected a multiple of 64 from 64 to 1024"),
        ({"width": True}, "Width: got True, expected a multiple of 64"),
        ({"picked-0": {"a": 1}}, "expected a file uploaded on this page"),
    ],
)
def test_images_that_cannot_be_sampled(server, picked, changes, expected):
    assert expected in refused(server, picked, **changes)


def refused(server: Server, picked: Picked, **changes: Any) -> str:
    before = server.requests()
    sample = server.event("sample", "click")
    text = said(server.call(sample, server.values(sample, **changes), session=picked.session))
    assert "the request cannot be met" in text
    assert server.requests() == before
    return text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"no picture", "the file is no picture that can be read"),
        (zipped(), "the file is no picture that can be read"),
        (bomb(10_000, 10_000), "10000 x 10000 pixels, expected at most 25 million"),
        (bomb(60_000, 60_000), "far too many pixels"),
    ],
    ids=["text", "zip", "bomb", "larger bomb"],
)
def test_maps_that_are_no_pictures(server, picked, content, expected):
    sent = server.upload(content, "map.png")
    text = refused(server, picked, **{"picked-0": sent})
    assert "Segmentation: the" in text
    assert expected in text


def test_a_map_that_ends_early_is_told_without_its_path(server, picked):
    whole = png(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    sent = server.upload(whole[: len(whole) // 2], "map.png")
    sample = server.event("sample", "click")
    values = server.values(sample, **{"picked-0": sent, "image-steps": STEPS})
    text = said(server.call(sample, values, session=picked.session))
    assert "segmentation: " in text
    assert "the file" in text
    assert str(server.workdir) not in text
