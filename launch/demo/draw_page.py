"""The page Draw: a text -> sets of maps -> the one that is picked -> images.

Between picking and sampling the maps of the picked set lie in fields of the page, which may be
filled in otherwise: by an upload, or by an editor that takes the place of `parts.upload`.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from input_pipeline.palettes import PALETTE_NAMES
from launch.demo import parts
from launch.demo.compose_request import SAMPLER_NAMES
from launch.demo.draw_run import (
    AS_TRAINED,
    IMAGE_VALUES,
    VALUES,
    Drawn,
    draw_image,
    draw_maps,
    maps_to_keep,
    read_draw_settings,
    read_image_settings,
)
from launch.demo.draw_view import NOT_PICKED, caption_of, drawn_view, nothing_picked, words_of
from launch.demo.fields import Fields
from launch.demo.models import Drawing
from launch.demo.run_job import Page, session_of
from launch.demo.status import IDLE, failure, status_of_end
from launch.setting_checks import RequestError

_FIRST_PROMPT = "a red ball in front of a green box in a meadow"
_USUAL_DRAWS = 6
_USUAL_STEPS = 20


@dataclasses.dataclass(frozen=True)
class _Parts:
    """Parts that events fill in."""

    draw: gr.Button
    cancel_draw: gr.Button
    draw_status: gr.HTML
    maps: gr.Gallery
    recall: gr.HTML
    picked_text: gr.Markdown
    picked: list[gr.Image]
    downloads: list[gr.DownloadButton]
    sample: gr.Button
    cancel_sample: gr.Button
    sample_status: gr.HTML
    images: gr.Gallery
    files: gr.File
    drawn: gr.State
    seed: gr.State


def build_draw(page: Page, drawing: Drawing) -> None:
    """Builds the page inside a tab.

    Args:
      page: what both pages share.
      drawing: what the model can do.
    """
    if not drawing.graphs:
        reasons = "\n".join(f"- {html.escape(reason)}" for reason in drawing.reasons)
        gr.Markdown(
            "This page draws segmentations, depth and other maps from a text by FG-DM. The "
            f"checkpoint cannot; name one that can by `--fgdm_checkpoint`.\n\n{reasons}"
        )
        return
    fields: dict[str, Any] = {}
    drawn, seed = gr.State(None), gr.State(None)
    with gr.Row():
        with gr.Column(scale=4, min_width=320):
            gr.Markdown("### 1. Draw sets of maps", elem_classes="step")
            _map_fields(fields, page, drawing)
            with gr.Row():
                draw = gr.Button("Draw maps", variant="primary", elem_id="draw", scale=3)
                cancel_draw = gr.Button("Cancel", interactive=False, elem_id="draw-cancel")
            draw_status = gr.HTML(IDLE, elem_id="draw-status")
            recall = gr.HTML(elem_classes="recall", elem_id="recall")
        with gr.Column(scale=7, min_width=320):
            gr.Markdown("### 2. Pick one, and edit it if you like", elem_classes="step")
            maps = parts.results(
                "Maps: click a set", elem_id="maps", height=290, allow_preview=False, cell="small"
            )
            picked_text = gr.Markdown(NOT_PICKED, elem_id="picked-text")
            picked, downloads = _picked_fields(drawing)
            gr.Markdown("### 3. Sample images from it", elem_classes="step")
            with gr.Row():
                sample = gr.Button(
                    *("Sample",), variant="primary", interactive=False, elem_id="sample", scale=3
                )
                cancel_sample = gr.Button("Cancel", interactive=False, elem_id="sample-cancel")
            sample_status = gr.HTML(IDLE, elem_id="sample-status")
            images = parts.results("Images", elem_id="draw-images", height=300)
            _image_fields(fields, page, drawing)
            with gr.Accordion("Records and palette", open=False):
                files = gr.File(label="Files", interactive=False, file_count="multiple")
    every = _Parts(
        *(draw, cancel_draw, draw_status, maps, recall, picked_text, picked, downloads),
        *(sample, cancel_sample, sample_status, images, files, drawn, seed),
    )
    _connect_draw(page, drawing, fields, every)
    _connect_pick(every)
    _connect_sample(page, fields, every)

    def on_cancel(request: gr.Request) -> None:
        if not page.jobs.cancel(session_of(request)):
            raise gr.Error("There is nothing to cancel.", title="Cancel", print_exception=False)

    for button in (cancel_draw, cancel_sample):
        button.click(on_cancel, None, None, **parts.EVENT)


def _picked_fields(drawing: Drawing) -> tuple[list[gr.Image], list[gr.DownloadButton]]:
    """Returns a field and a download for each map that an image may be sampled from."""
    picked, downloads = [], []
    usual = next(iter(drawing.graphs.values())).seen
    with gr.Row():
        for index in range(max(len(graph.seen) for graph in drawing.graphs.values())):
            with gr.Column(min_width=160):
                name = words_of(usual[index]) if index < len(usual) else "Map"
                visible = index < len(usual)
                field = parts.upload(name, visible=visible, height=220, elem_id=f"picked-{index}")
                picked.append(field)
                downloads.append(
                    gr.DownloadButton(
                        *(f"Download {name}",),
                        **{"size": "sm", "interactive": False, "visible": visible},
                        elem_id=f"download-{index}",
                    )
                )
    return picked, downloads


def _map_fields(fields: dict[str, Any], page: Page, drawing: Drawing) -> None:
    limits, usual = page.settings.limits, drawing.usual
    graphs = [(f"{name}: {graph.text}", name) for name, graph in drawing.graphs.items()]
    fields["graph"] = gr.Dropdown(graphs, value=graphs[0][1], label="Graph", elem_id="graph")
    fields["prompt"] = gr.Textbox(_FIRST_PROMPT, label="Prompt", lines=2, elem_id="draw-prompt")
    with gr.Row():
        fields["num_draws"] = gr.Slider(
            *(1, limits.max_draws, _USUAL_DRAWS), step=1, label="Sets of maps", elem_id="num-draws"
        )
        fields["seed"] = parts.seed_field("draw-seed")
    with gr.Row():
        fields["map_steps"] = gr.Slider(
            *(1, limits.max_steps, _USUAL_STEPS), step=1, label="Map steps", elem_id="map-steps"
        )
        fields["map_guidance_scale"] = gr.Slider(
            *(1, limits.max_guidance, usual.guidance_scale), step=0.5, label="Map guidance"
        )
    with gr.Accordion("More", open=False):
        fields["objects"] = gr.Textbox(
            label="Objects to look for", placeholder="ball, box (those of the prompt unless given)"
        )
        fields["negative_prompt"] = gr.Textbox(label="Negative prompt")
        with gr.Row():
            size = min(drawing.map_size, limits.max_size)
            fields["map_height"] = parts.size_slider("Map height", size, limits)
            fields["map_width"] = parts.size_slider("Map width", size, limits)
        with gr.Row():
            fields["sampler"] = gr.Dropdown(
                list(SAMPLER_NAMES), value=usual.sampler, label="Sampler"
            )
            fields["palette"] = gr.Dropdown(
                [AS_TRAINED, *PALETTE_NAMES], value=AS_TRAINED, label="Palette"
            )


def _image_fields(fields: dict[str, Any], page: Page, drawing: Drawing) -> None:
    limits, size = page.settings.limits, min(drawing.size, page.settings.limits.max_size)
    usual = drawing.usual
    with gr.Accordion("Settings of images", open=False):
        with gr.Row():
            fields["num_images"] = gr.Slider(
                *(1, limits.max_images, 1), step=1, label="Images", elem_id="draw-num-images"
            )
            fields["num_steps"] = gr.Slider(
                *(1, limits.max_steps, _USUAL_STEPS),
                step=1,
                label="Image steps",
                elem_id="image-steps",
            )
            fields["guidance_scale"] = gr.Slider(
                *(1, limits.max_guidance, usual.guidance_scale), step=0.5, label="Image guidance"
            )
        with gr.Row():
            fields["height"] = parts.size_slider("Height", size, limits)
            fields["width"] = parts.size_slider("Width", size, limits)


def _connect_draw(page: Page, drawing: Drawing, fields: dict[str, Any], every: _Parts) -> None:
    settings = page.settings
    names = ("draw", "cancel_draw", "draw_status", "maps", "recall", "picked_text", "sample")
    names = (*names, "files", "drawn", "seed")

    async def on_draw(request: gr.Request, *sent: Any) -> AsyncIterator[list[Any]]:
        session = session_of(request)
        page.refuse_second(session)
        checks = Fields(settings.limits, page.folders)
        values = dict(zip(VALUES, sent, strict=True))
        try:
            graph, found = read_draw_settings(values, checks, settings, drawing)
            checks.check()
        except RequestError as error:
            yield _update(names, draw_status=failure(str(error)))
            return
        work = lambda folder: draw_maps(graph, found, settings, folder, page.models)
        told = 0
        async for job, said, pictures in page.follow(session, work):
            if not job.is_over:
                # What was picked before is no longer among what is shown.
                changes = {
                    "draw_status": said,
                    **_buttons("draw", "Drawing ..."),
                    **nothing_picked(),
                }
                if len(pictures) != told:
                    told = len(pictures)
                    changes["maps"] = [(str(path), caption_of(path)) for path in pictures]
                yield _update(names, **changes)
                continue
            changes = {"draw_status": status_of_end(job, "", len(pictures)), **nothing_picked()}
            if job.state == "done":
                changes |= drawn_view(job, graph, found)
            yield _update(names, **changes, **_buttons("draw", "Draw maps", done=True))

    sent = [fields[name] for name in VALUES]
    every.draw.click(on_draw, sent, [getattr(every, name) for name in names], **parts.EVENT)


def _connect_pick(every: _Parts) -> None:
    def on_pick(event: gr.SelectData, drawn: Drawn | None) -> list[Any]:
        index = event.index
        if drawn is None or not isinstance(index, int) or not 0 <= index < len(drawn.pictures):
            raise gr.Error("Draw maps first, then pick one.", print_exception=False)
        seed = drawn.pictures[index][1]
        files = drawn.set_of(seed)
        seen = drawn.graph.seen
        maps: list[Any] = [gr.Image(None, visible=False)] * len(every.picked)
        buttons: list[Any] = [gr.DownloadButton(visible=False)] * len(maps)
        for place, name in enumerate(seen):
            file, label = files.get(name), words_of(name)
            maps[place] = gr.Image(file, label=label, visible=True)
            buttons[place] = gr.DownloadButton(
                f"Download {label}", value=file, interactive=True, visible=True
            )
        text = (
            f"**Seed {seed}** is picked. Its maps can be downloaded, edited in any program and put "
            "back here; one that is taken away is drawn anew from the text and what it was drawn "
            "from, and so are those that were drawn from it."
        )
        return [seed, text, gr.Button(interactive=True), *maps, *buttons]

    outputs = [every.seed, every.picked_text, every.sample, *every.picked, *every.downloads]
    every.maps.select(on_pick, [every.drawn], outputs, **parts.EVENT)


def _connect_sample(page: Page, fields: dict[str, Any], every: _Parts) -> None:
    settings = page.settings
    names = ("sample", "cancel_sample", "sample_status", "images", "files")

    async def on_sample(
        request: gr.Request, drawn: Drawn | None, seed: int | None, *sent: Any
    ) -> AsyncIterator[list[Any]]:
        session = session_of(request)
        page.refuse_second(session)
        if drawn is None or seed is None:
            yield _update(names, sample_status=failure("Nothing is picked: draw maps, click one."))
            return
        checks = Fields(settings.limits, page.folders)
        values, uploads = sent[: len(IMAGE_VALUES)], sent[len(IMAGE_VALUES) :]
        try:
            found = read_image_settings(
                dict(zip(IMAGE_VALUES, values, strict=True)), checks, settings
            )
            maps = {
                name: checks.picture(words_of(name).capitalize(), value)
                for name, value in zip(drawn.graph.seen, uploads, strict=False)
            }
            checks.check()
        except RequestError as error:
            yield _update(names, sample_status=failure(str(error)))
            return
        given = maps_to_keep(drawn, seed, maps)
        found["seed"] = min(seed, 2**32 - found["num_images"])
        work = lambda folder: draw_image(drawn, given, found, settings, folder, page.models)
        async for job, said, pictures in page.follow(session, work):
            pictures = [path for path in pictures if path.stem.isdigit()]
            if not job.is_over:
                at_work = {"sample_status": said, **_buttons("sample", "Sampling ...")}
                yield _update(names, **at_work)
                continue
            changes: dict[str, Any] = {
                "sample_status": status_of_end(job, f"Seed {found['seed']}.", len(pictures))
            }
            if job.state == "done":
                changes["files"] = [
                    str(job.result / name) for name in ("record.json", "contact_sheet.png")
                ]
            if pictures:
                changes["images"] = parts.captions(pictures)
            yield _update(names, **changes, **_buttons("sample", "Sample", done=True))

    sent = [every.drawn, every.seed, *(fields[name] for name in IMAGE_VALUES), *every.picked]
    every.sample.click(on_sample, sent, [getattr(every, name) for name in names], **parts.EVENT)


def _update(names: tuple[str, ...], **changes: Any) -> list[Any]:
    return [changes.get(name, gr.skip()) for name in names]


def _buttons(name: str, text: str, *, done: bool = False) -> dict[str, Any]:
    return {
        name: gr.Button(text, interactive=done),
        f"cancel_{name}": gr.Button(interactive=not done),
    }
