"""Both pages in Chromium, as a person uses them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.launch.demo.server_process import Server, start, stop, write_checkpoint

# Divides 20 and 100, so that all runs share one compiled program.
STEPS = 5
PATIENCE_S = 60


def fill_in(page: Any, example: int) -> None:
    page.locator("#examples img").nth(example).click()
    page.wait_for_function("document.querySelector('#prompt textarea').value != ''")
    page.wait_for_selector("#mask-0 img")
    page.wait_for_selector("#exemplar-1 img")


def set_number(page: Any, element: str, value: float) -> None:
    box = page.locator(f"#{element} input[type=number]")
    box.fill(str(value))
    box.blur()


def end_of(page: Any, element: str) -> str:
    """Waits for the end of a job; returns what the page says."""
    page.wait_for_selector(f"#{element} :is(.done, .failed, .idle):not(.earlier)")
    return page.locator(f"#{element}").inner_text()


def start_job(page: Any, server: Server, button: str) -> Path:
    """Clicks; returns the folder of the results, which the request makes when it begins.

    What the page said of an earlier request may still stand there: it is marked.
    """
    before = set(server.requests())
    page.locator(f"#{button}-status .status").evaluate("said => said.classList.add('earlier')")
    page.locator(f"#{button}").click()
    page.wait_for_selector(f"#{button}-status .status:not(.earlier)")
    limit = time.monotonic() + PATIENCE_S
    while time.monotonic() < limit:
        begun = set(server.requests()) - before
        if begun:
            (folder,) = begun
            return folder / "output"
        page.wait_for_timeout(50)
    raise AssertionError(f"{button} began nothing")


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "record.json").read_text())


def test_two_clicks_make_a_picture(page, server):
    fill_in(page, 1)
    set_number(page, "num-steps", STEPS)
    folder = start_job(page, server, "compose")
    assert page.locator("#compose").is_disabled()
    said = end_of(page, "compose-status")
    assert "Done in" in said
    content = record(folder)
    config = content["config"]
    assert config["prompt"] == page.locator("#prompt textarea").input_value() != ""
    assert len(json.loads(config["depth_maps"])) == len(json.loads(config["exemplars"])) == 2
    assert len(json.loads(config["masks"])) == 1
    assert config["num_steps"] == STEPS
    assert f"Seeds {config['seed']} to {config['seed'] + 1}" in said
    page.wait_for_selector(f"#compose-images :text('seed {config['seed']}')")
    assert page.locator("#compose-images .grid-container img").count() == 2
    for label in ("depth 1", "depth 2", "exemplar 1", "exemplar 2", "mask 1"):
        assert page.locator(f"#conditions :text-is('{label}')").count() == 1, label
    assert not page.locator("#compose").is_disabled()
    # Pictures are really there, not only their frames.
    widths = "[...document.querySelectorAll('#compose-images img')].map(i => i.naturalWidth)"
    page.wait_for_function(f"{widths}.every(width => width == 64)")
    page.get_by_text("Contact sheet and record").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="record.json").or_(
            page.locator("a[download*='record']")
        ).first.click()
    assert json.loads(Path(download.value.path()).read_text())["config"]["seed"] == config["seed"]


def test_sliders_change_what_is_composed(page, server):
    fill_in(page, 0)
    set_number(page, "num-steps", STEPS)
    page.locator("#seed input").fill("7")
    found = {}
    for gain in (1, 0):
        set_number(page, "gain-1", gain)
        folder = start_job(page, server, "compose")
        assert "Seeds 7 to 8." in end_of(page, "compose-status")
        assert record(folder)["config"]["depth_gains"] == f"1.0,{gain:.1f}"
        found[gain] = np.asarray(Image.open(folder / "000007.png")).astype(int)
        # What is shown as composed is what the gain makes of the map.
        shown = np.asarray(Image.open(folder.parent / "2_depth_shown.png"))
        assert (shown.max() > 0) == (gain > 0)
    assert np.abs(found[1] - found[0]).mean() > 0.5


def test_an_example_of_looks_sets_its_guidance(page, server):
    """Without a prompt the exemplars say what is seen, and something else must amplify them."""
    guidance = page.locator("#image-guidance input[type=number]")
    prompt = page.locator("#prompt textarea")
    fill_in(page, 0)
    assert (float(guidance.input_value()), prompt.input_value() != "") == (0, True)
    page.locator("#examples img").last.click()
    page.wait_for_function("document.querySelector('#prompt textarea').value == ''")
    assert float(guidance.input_value()) == 2
    set_number(page, "num-steps", STEPS)
    folder = start_job(page, server, "compose")
    assert "Done in" in end_of(page, "compose-status")
    config = record(folder)["config"]
    assert (config["prompt"], config["image_guidance_scale"]) == ("", 2)
    fill_in(page, 1)
    assert float(guidance.input_value()) == 0


def test_a_job_can_be_cancelled(page, server):
    fill_in(page, 0)
    set_number(page, "num-images", 12)
    set_number(page, "num-steps", 100)
    folder = start_job(page, server, "compose")
    page.locator("#compose-cancel").click()
    assert "Cancelled after" in end_of(page, "compose-status")
    assert not (folder / "record.json").exists()
    # The next one starts at once.
    set_number(page, "num-images", 2)
    set_number(page, "num-steps", STEPS)
    start_job(page, server, "compose")
    assert "Done in" in end_of(page, "compose-status")


def test_a_page_that_is_closed_leaves_nothing_at_work(page, server):
    fill_in(page, 0)
    set_number(page, "num-images", 12)
    set_number(page, "num-steps", 100)
    left = start_job(page, server, "compose")
    page.close()
    # Whoever comes next does not wait for all of it.
    event = server.event("compose", "click")
    values = server.values(event, **{"num-steps": STEPS})
    assert "Done in" in server.call(event, values)["output"]["data"][0]
    assert not (left / "record.json").exists()


def test_twenty_clicks_start_one_computation(page, server):
    fill_in(page, 0)
    before = len(server.requests())
    set_number(page, "num-steps", STEPS)
    page.evaluate("for (let i = 0; i < 20; i++) document.querySelector('#compose').click()")
    # A machine that has compiled this before may be done before anyone looks.
    page.wait_for_selector("#compose-status :is(.busy, .done)")
    assert "Done in" in end_of(page, "compose-status")
    page.wait_for_timeout(500)
    assert len(server.requests()) == before + 1


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("photo.png", b"not a picture at all", "Layer 1, exemplar: the file is no picture"),
        (
            "drawing.png",
            b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
            "Layer 1, exemplar: the file is no picture",
        ),
    ],
)
def test_a_bad_file_is_told_by_its_field(page, server, tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    before = len(server.requests())
    page.locator("#exemplar-0 input[type=file]").set_input_files(tmp_path / name)
    page.wait_for_selector("#exemplar-0 img")
    page.locator("#compose").click()
    said = end_of_failure(page, "compose-status")
    assert expected in said
    assert "Traceback" not in page.content()
    assert len(server.requests()) == before


def end_of_failure(page: Any, element: str) -> str:
    page.wait_for_selector(f"#{element} .failed")
    return page.locator(f"#{element}").inner_text()


def test_maps_are_drawn_picked_edited_and_sampled(page, server, tmp_path):
    page.get_by_role("tab", name="Draw").click()
    page.wait_for_selector("#draw")
    set_number(page, "num-draws", 3)
    set_number(page, "map-steps", STEPS)
    page.get_by_text("Settings of images").click()
    set_number(page, "image-steps", STEPS)
    assert page.locator("#sample").is_disabled()
    maps = start_job(page, server, "draw")
    assert "Looked for: sports ball, grass" in end_of(page, "draw-status")
    content = record(maps)
    seeds = [item["seed"] for item in content["draws"]]
    assert len(seeds) == 3
    assert content["chosen"] == []
    page.wait_for_selector("#recall td")
    assert page.locator("#recall tr").count() == 4
    page.locator("#maps .grid-container img").nth(1).click()
    page.wait_for_selector(f"#picked-text :text('Seed {seeds[1]}')")
    page.wait_for_selector("#picked-0 img")
    with page.expect_download() as download:
        page.locator("#download-0").click()
    file = f"{seeds[1]:06d}_segmentation.png"
    assert Path(download.value.path()).read_bytes() == (maps / file).read_bytes()
    first = sampled(page, server)
    config = record(first)["config"]
    assert (config["seed"], config["wanted"]) == (seeds[1], "image")
    assert not list(first.glob("*_segmentation.png"))
    given = first.parent / "segmentation.png"
    np.testing.assert_array_equal(Image.open(given), Image.open(maps / file))
    # An edited map takes its place.
    edited = np.full((64, 64, 3), 0, np.uint8)
    Image.fromarray(edited).save(tmp_path / "edited.png")
    page.locator("#picked-0 button[aria-label='Remove Image']").click()
    page.locator("#picked-0 input[type=file]").set_input_files(tmp_path / "edited.png")
    page.wait_for_selector("#picked-0 img")
    second = sampled(page, server)
    np.testing.assert_array_equal(Image.open(second.parent / "segmentation.png"), edited)
    name = f"{seeds[1]:06d}.png"
    assert (first / name).read_bytes() != (second / name).read_bytes()


def sampled(page: Any, server: Server) -> Path:
    folder = start_job(page, server, "sample")
    assert "Done in" in end_of(page, "sample-status")
    return folder


def test_four_layers_are_shown_one_by_one(browser, tmp_path):
    """Two at first; a model of four has a button for each further one."""
    only = ("unet", "vae", "text_encoder", "local_fuser")
    checkpoint = write_checkpoint(tmp_path / "model", 4, only)
    running = start(checkpoint, tmp_path, "--local_condition=canny")
    try:
        page = browser.new_page()
        page.goto(running.address)
        page.wait_for_selector("#compose")
        add = page.get_by_role("button", name="Add a layer")
        for layers in (2, 3, 4):
            page.wait_for_selector(f"#depth-{layers - 1}", state="visible")
            assert not page.locator(f"#depth-{layers}").is_visible()
            assert add.is_visible() == (layers < 4)
            if layers < 4:
                add.click()
        # Edges are taken of photos without any estimator.
        assert page.locator("#photo-3").is_visible()
        # Without a global fuser there are no exemplars.
        assert not page.locator("#exemplar-0").is_visible()
        # Of the last layer there is no mask: it is seen where no other is.
        assert page.locator("#mask-2").is_visible()
        assert not page.locator("#mask-3").is_visible()
        page.get_by_role("tab", name="Draw").click()
        page.wait_for_selector(":text('no adapter_segmentation in')")
        assert page.locator("#draw").count() == 0
        page.close()
    finally:
        stop(running)
