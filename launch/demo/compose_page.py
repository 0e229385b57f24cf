"""The page Compose: layers with depth, exemplar and mask -> images."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from launch.demo import parts
from launch.demo.compose_request import (
    PHOTO_RULES,
    SAMPLER_NAMES,
    USUAL_PHOTO_RULE,
    read_compose_request,
    value_names,
)
from launch.demo.compose_run import CONDITIONS, compose
from launch.demo.examples import Example, write_examples
from launch.demo.fields import Fields
from launch.demo.models import Composing
from launch.demo.run_job import Page, read_json, session_of
from launch.demo.status import IDLE, failure, status_of_end
from launch.setting_checks import RequestError

_FIRST_LAYERS = 2
_USUAL_STEPS = 20
_USUAL_IMAGES = 2


@dataclasses.dataclass(frozen=True)
class _Outputs:
    """Parts that a run fills in."""

    status: gr.HTML
    images: gr.Gallery
    conditions: gr.Gallery
    sheet: gr.Image
    files: gr.File
    go: gr.Button
    cancel: gr.Button

    @property
    def all(self) -> list[Any]:
        """In the order of the fields."""
        return [getattr(self, field.name) for field in dataclasses.fields(self)]


def build_compose(page: Page, composing: Composing) -> None:
    """Builds the page inside a tab.

    Args:
      page: what both pages share.
      composing: what the model can do.
    """
    fields: dict[str, Any] = {}
    shown = min(composing.layers, page.settings.limits.max_layers)
    with gr.Row():
        with gr.Column(scale=6, min_width=320):
            gallery, examples = _examples(page, composing)
            fields["prompt"] = gr.Textbox(
                label="Prompt", lines=2, placeholder="What the image shows", elem_id="prompt"
            )
            groups = [_layer(index, fields, page, composing) for index in range(shown)]
            more = gr.Button("Add a layer", size="sm", visible=shown > _FIRST_LAYERS)
            _note(page, composing)
        with gr.Column(scale=5, min_width=320):
            with gr.Row():
                go = gr.Button("Compose", variant="primary", elem_id="compose", scale=3)
                cancel = gr.Button("Cancel", interactive=False, elem_id="compose-cancel", scale=1)
            status = gr.HTML(IDLE, elem_id="compose-status")
            images = parts.results("Images", elem_id="compose-images", height=330)
            _settings(fields, page, composing)
            with gr.Accordion("What the model was given", open=True):
                conditions = parts.results(
                    "Depth as composed, exemplars, masks",
                    elem_id="conditions",
                    height=250,
                    cell="tiny",
                )
            with gr.Accordion("Contact sheet and record", open=False):
                sheet = gr.Image(
                    label="Contact sheet", type="filepath", interactive=False, elem_id="sheet"
                )
                files = gr.File(label="Files", interactive=False, file_count="multiple")
    outputs = _Outputs(status, images, conditions, sheet, files, go, cancel)
    _connect(page, composing, fields, outputs, shown)
    _connect_layers(more, groups)
    if gallery is not None:
        _connect_examples(gallery, examples, fields, min(shown, _FIRST_LAYERS))


def _examples(page: Page, composing: Composing) -> tuple[gr.Gallery | None, list[Example]]:
    size = min(composing.size, page.settings.limits.max_size)
    folder = page.folders.workdir / "examples"
    examples = write_examples(folder, size, composing.takes_exemplars)
    gr.Markdown("**Start from an example**: click a scene, then Compose.", elem_classes="hint")
    gallery = gr.Gallery(
        [(item.picture, item.title) for item in examples],
        label="Examples",
        show_label=False,
        columns=len(examples),
        height=125,
        allow_preview=False,
        object_fit="cover",
        interactive=False,
        elem_id="examples",
        buttons=[],
    )
    return gallery, examples


def _layer(index: int, fields: dict[str, Any], page: Page, composing: Composing) -> gr.Group:
    last = index == composing.layers - 1
    where = "nearest" if index == 0 else "farthest" if last else "between"
    uses_masks = composing.takes_exemplars or page.settings.takes_photos
    map_name = "Edge map" if page.settings.local_condition == "canny" else "Depth map"
    with gr.Group(visible=index < _FIRST_LAYERS, elem_classes="layer") as group:
        gr.Markdown(f"**Layer {index + 1}**, {where}", elem_classes="layer-title", container=False)
        with gr.Row():
            for name, label, visible in (
                ("depth", f"{map_name} (near = white)", composing.takes_depth),
                ("photo", "or a photo", composing.takes_depth and page.settings.takes_photos),
                ("exemplar", "Exemplar", composing.takes_exemplars),
                ("mask", "Mask (white = here)", not last and uses_masks),
            ):
                fields[f"{name}_{index}"] = parts.upload(
                    label, visible=visible, elem_id=f"{name}-{index}", min_width=100
                )
        with gr.Row():
            fields[f"gain_{index}"] = gr.Slider(
                *(0, 2, 1.0),
                step=0.05,
                label="Depth gain",
                visible=composing.takes_depth,
                elem_id=f"gain-{index}",
            )
            fields[f"strength_{index}"] = gr.Slider(
                *(0, 2, 1.0),
                step=0.05,
                label="Exemplar strength",
                visible=composing.takes_exemplars,
                elem_id=f"strength-{index}",
            )
    return group


def _note(page: Page, composing: Composing) -> None:
    lines = []
    if not composing.layers:
        lines.append("This checkpoint has no fusers: it makes images of the prompt alone.")
    elif not page.settings.takes_photos and composing.takes_depth:
        lines.append(
            "Photos can be given in place of depth maps if the page is started with "
            "`--depth_estimator=FOLDER`."
        )
    if composing.layers:
        lines.append(
            f"This checkpoint composes {composing.layers} layers, front first. Everything may be "
            "left out; without any layer it is text to image."
        )
    gr.Markdown(" ".join(lines), elem_classes="hint")


def _settings(fields: dict[str, Any], page: Page, composing: Composing) -> None:
    limits = page.settings.limits
    size = min(composing.size, limits.max_size)
    usual = composing.usual
    with gr.Accordion("Settings", open=True):
        fields["negative_prompt"] = gr.Textbox(
            label="Negative prompt", lines=1, placeholder="What to lead away from"
        )
        with gr.Row():
            fields["num_images"] = gr.Slider(
                *(1, limits.max_images, _USUAL_IMAGES), step=1, label="Images", elem_id="num-images"
            )
            fields["seed"] = parts.seed_field("seed")
        with gr.Row():
            fields["num_steps"] = gr.Slider(
                *(1, limits.max_steps, _USUAL_STEPS), step=1, label="Steps", elem_id="num-steps"
            )
            fields["guidance_scale"] = gr.Slider(
                *(1, limits.max_guidance, usual.guidance_scale), step=0.5, label="Guidance"
            )
            fields["image_guidance_scale"] = gr.Slider(
                *(0, limits.max_guidance, 0),
                step=0.5,
                label="Guidance of depth and exemplars (0: as the released model was used)",
                elem_id="image-guidance",
            )
        with gr.Row():
            fields["height"] = parts.size_slider("Height", size, limits)
            fields["width"] = parts.size_slider("Width", size, limits)
        with gr.Row():
            fields["sampler"] = gr.Dropdown(
                list(SAMPLER_NAMES), value=usual.sampler, label="Sampler"
            )
            fields["photo_rule"] = gr.Dropdown(
                [(text, name) for name, text in PHOTO_RULES.items()],
                value=USUAL_PHOTO_RULE,
                label="Depth of photos is taken of",
                visible=composing.takes_depth and page.settings.takes_photos,
            )


def _connect(
    page: Page, composing: Composing, fields: dict[str, Any], outputs: _Outputs, shown: int
) -> None:
    names = value_names(shown)
    settings, limits = page.settings, page.settings.limits

    async def on_compose(request: gr.Request, *sent: Any) -> AsyncIterator[list[Any]]:
        session = session_of(request)
        page.refuse_second(session)
        try:
            checked = read_compose_request(
                dict(zip(names, sent, strict=True)),
                Fields(limits, page.folders),
                settings,
                composing,
            )
        except RequestError as error:
            yield _update(outputs, status=failure(str(error)))
            return
        told = 0
        work = lambda folder: compose(checked, settings, folder, page.models)
        async for job, said, pictures in page.follow(session, work):
            if not job.is_over:
                changes = {"status": said, **_at_work(True)}
                if len(pictures) != told:
                    told, changes["images"] = len(pictures), parts.captions(pictures)
                yield _update(outputs, **changes)
                continue
            changes = {"status": status_of_end(job, "", len(pictures)), **_at_work(False)}
            if job.state == "done":
                folder = job.result
                changes["status"] = status_of_end(job, _said(checked.settings))
                changes["conditions"] = read_json(folder.parent / CONDITIONS) or []
                changes["sheet"] = str(folder / "contact_sheet.png")
                changes["files"] = [str(folder / "record.json"), str(folder / "contact_sheet.png")]
            if pictures:
                changes["images"] = parts.captions(pictures)
            yield _update(outputs, **changes)

    def on_cancel(request: gr.Request) -> str | None:
        if not page.jobs.cancel(session_of(request)):
            raise gr.Error("There is nothing to cancel.", title="Cancel", print_exception=False)

    outputs.go.click(on_compose, [fields[name] for name in names], outputs.all, **parts.EVENT)
    outputs.cancel.click(on_cancel, None, None, **parts.EVENT)


def _update(outputs: _Outputs, **changes: Any) -> list[Any]:
    return [changes.get(field.name, gr.skip()) for field in dataclasses.fields(outputs)]


def _at_work(at_work: bool) -> dict[str, Any]:
    go = gr.Button("Composing ..." if at_work else "Compose", interactive=not at_work)
    return {"go": go, "cancel": gr.Button(interactive=at_work)}


def _said(settings: Any) -> str:
    first, count = settings["seed"], settings["num_images"]
    return f"Seed {first}." if count == 1 else f"Seeds {first} to {first + count - 1}."


def _connect_layers(more: gr.Button, groups: list[gr.Group]) -> None:
    """Shows a further layer with each click."""
    if len(groups) <= _FIRST_LAYERS:
        return
    count = gr.State(_FIRST_LAYERS)

    def on_more(shown: int) -> list[Any]:
        shown = min(shown + 1, len(groups))
        visible = [gr.Group(visible=index < shown) for index in range(len(groups))]
        return [shown, gr.Button(visible=shown < len(groups)), *visible]

    more.click(on_more, [count], [count, more, *groups], **parts.EVENT)


def _connect_examples(
    gallery: gr.Gallery, examples: list[Example], fields: dict[str, Any], shown: int
) -> None:
    """Fills in an example: what a layer of it has goes to the first and the second layer."""
    names = ["prompt", "image_guidance_scale"]
    names += [f"{name}_{index}" for index in range(shown) for name in ("depth", "exemplar")]
    names += ["mask_0"] if shown else []

    def on_example(event: gr.SelectData) -> list[Any]:
        index = event.index
        if not isinstance(index, int) or not 0 <= index < len(examples):
            raise gr.Error("There is no such example.", print_exception=False)
        item = examples[index]
        values: dict[str, Any] = {
            "prompt": item.prompt,
            "image_guidance_scale": item.image_guidance_scale,
            "mask_0": item.mask,
        }
        for layer in range(shown):
            values[f"depth_{layer}"] = item.depths[layer]
            values[f"exemplar_{layer}"] = item.exemplars[layer]
        return [values[name] if fields[name].visible else gr.skip() for name in names]

    gallery.select(on_example, None, [fields[name] for name in names], **parts.EVENT)
