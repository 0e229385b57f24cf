"""What is sent straight to the server, past the page: nothing is fetched, read or broken by it."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from tests.launch.demo.hostile_files import bomb, png, zipped
from tests.launch.demo.server_process import Server

MANY = 50

pytestmark = pytest.mark.usefixtures("_unharmed")


@pytest.fixture(scope="module")
def event(server: Server) -> dict[str, Any]:
    return server.event("compose", "click")


def status(server: Server, event: dict[str, Any], **changes: Any) -> str:
    """Returns what the page would say of a request that cannot be met."""
    message = server.call(event, server.values(event, **changes))
    assert "output" in message, message
    assert message["success"], message
    return message["output"]["data"][0]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"no picture", "is no picture that can be read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is no picture that can be read"),
        (zipped(), "is no picture that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no picture that can be read"),
        (bomb(10_000, 10_000), "10000 x 10000 pixels, expected at most 25 million"),
        (bomb(60_000, 60_000), "far too many pixels"),
    ],
    ids=["text", "svg", "zip", "eps", "bomb", "larger bomb"],
)
def test_files_that_are_no_pictures(server, event, content, expected):
    before = server.requests()
    sent = server.upload(content, "photo.png")
    said = status(server, event, **{"depth-0": sent})
    assert f"Layer 1, depth: the {'picture' if 'pixels' in expected else 'file'}" in said
    assert expected in said
    assert server.requests() == before


def test_a_picture_that_ends_early_is_told_by_its_field(server, event):
    whole = png(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    sent = server.upload(whole[: len(whole) // 2], "photo.png")
    said = status(server, event, **{"exemplar-1": sent})
    assert "Layer 2, exemplar: the file" in said
    assert str(server.workdir) not in said


def test_files_that_are_too_large(server):
    answer = server.client.post(
        "/gradio_api/upload", files={"files": ("a.png", b"\0" * (3 * 10**6))}
    )
    assert answer.status_code == 413
    # Without a length told, bytes could come for ever.
    answer = server.client.post(
        "/gradio_api/upload",
        content=iter([b"--x\r\n"]),
        headers={"content-type": "multipart/form-data; boundary=x"},
    )
    assert answer.status_code == 411


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"num-steps": float("nan")}, "Steps: got nan, expected a whole number from 1 to 100"),
        ({"num-steps": 10**9}, "Steps: got 1000000000, expected a whole number from 1 to 100"),
        ({"num-steps": 10**400}, "Steps: got 1000"),
        ({"num-steps": "12"}, "Steps: got 12, expected a whole number"),
        ({"num-steps": True}, "Steps: got True, expected a whole number"),
        ({"num-images": None}, "Images: got None, expected a whole number from 1 to 12"),
        ({"num-images": 2.5}, "Images: got 2.5, expected a whole number from 1 to 12"),
        ({"guidance": 10**400}, "Guidance: got 1000"),
        ({"guidance": float("inf")}, "Guidance: got inf, expected a number from 1 to 20"),
        ({"gain-0": -1}, "Layer 1, depth gain: got -1, expected a number from 0 to 2"),
        ({"strength-1": [1]}, "Layer 2, exemplar strength: got [1], expected a number"),
        ({"height": 100}, "Height: got 100, expected a multiple of 64 from 64 to 1024"),
        ({"width": float("nan")}, "Width: got nan, expected a multiple of 64"),
        ({"seed": 2**40}, "Seed (-1 is random): got 1099511627776"),
        ({"sampler": "../ddim"}, "Sampler: got ../ddim, expected one of"),
        ({"sampler": {"a": 1}}, "Sampler: got {&#x27;a&#x27;: 1}, expected one of"),
        ({"prompt": "a" * 10_000}, "Prompt: got 10000 letters, expected at most 2000"),
        ({"prompt": ["a"]}, "Prompt: got [&#x27;a&#x27;], expected a text"),
        ({"prompt": "\ud800"}, "Prompt: got half of a letter"),
        ({"sampler": "<img src=x onerror=alert(1)>"}, "got &lt;img src=x onerror=alert(1)&gt;"),
    ],
)
def test_values_out_of_range(server, event, changes, expected):
    before = server.requests()
    said = status(server, event, **changes)
    assert "the request cannot be met" in said
    assert expected in said
    assert server.requests() == before


def test_all_faults_are_told_at_once(server, event):
    said = status(server, event, **{"num-steps": 0, "height": 1, "prompt": 5})
    assert [name in said for name in ("Steps:", "Height:", "Prompt:")] == [True] * 3


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        # Gradio looks its number up without asking: a KeyError, of which nothing is told.
        ({"fn_index": 10**6}, 500),
        ({"fn_index": -1}, 500),
        ({"data": []}, 200),
        ({"data": [1] * 500}, 200),
        ({"data": "text"}, 422),
    ],
)
def test_events_that_there_are_not(server, event, more, expected):
    session = uuid.uuid4().hex
    body = {"data": server.values(event), "fn_index": event["id"], "session_hash": session, **more}
    answer = server.client.post("/gradio_api/queue/join", json=body)
    assert answer.status_code == expected
    if expected == 200:
        message = server.wait(session)
        assert not message["success"]
        assert "Traceback" not in json.dumps(message)
    elif expected == 500:
        assert answer.text == "Internal Server Error"


@pytest.mark.parametrize("index", [10**6, -1, "0", None, [0, 1], 1.5])
def test_examples_that_there_are_not(server, index):
    chosen = server.event("examples", "select")
    message = server.call(chosen, [], event_data={"index": index, "value": None})
    assert not message["success"]
    assert "no such example" in message["output"]["error"]


def test_nothing_is_picked_or_sampled_before_it_is_drawn(server):
    picked = server.event("maps", "select")
    message = server.call(picked, [None], event_data={"index": 0, "value": None})
    assert "Draw maps first" in message["output"]["error"]
    sample = server.event("sample", "click")
    # State is the server's own: what is sent in its place is not looked at.
    values = [{"graph": "chain"}, 3, *server.values(sample)[2:]]
    output = server.call(sample, values)["output"]["data"]
    assert any("Nothing is picked" in str(item) for item in output)


def test_a_second_request_of_a_browser_is_refused(server, event):
    before, session = len(server.requests()), uuid.uuid4().hex
    values = server.values(event, **{"num-steps": 5})
    for _ in range(20):
        assert server.join(event, values, session).status_code == 200
    ends = []
    for message in server.messages(session):
        if message["msg"] == "process_completed":
            ends.append(message)
        if len(ends) == 20:
            break
    assert sum(message["success"] for message in ends) == 1
    refused = [message["output"]["error"] for message in ends if not message["success"]]
    assert all("Your last request is still at work" in text for text in refused)
    assert len(server.requests()) == before + 1


def test_fifty_at_once(server, event):
    """One computes, three wait, the others are told so, and the page still answers."""
    values = server.values(event, **{"num-steps": 5})

    def send(_: int) -> dict[str, Any]:
        return server.call(event, values)

    with ThreadPoolExecutor(MANY) as pool:
        sent = [pool.submit(send, number) for number in range(MANY)]
        assert server.client.get("/").status_code == 200
        messages = [future.result(120) for future in sent]
    done = [message for message in messages if message.get("success")]
    refused = [message for message in messages if not message.get("success")]
    assert len(done) >= 4
    assert all("Done in" in message["output"]["data"][0] for message in done)
    assert refused
    assert all("3 requests wait already" in message["output"]["error"] for message in refused)
