"""Which tensors of a source are which component's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sd_jax.convert.component import Component
from sd_jax.convert.source import CheckpointError, Source


def places_in(
    source: Source, components: Sequence[Component]
) -> dict[str, dict[str, dict[str, str]]]:
    """Returns {component: {prefix: {name in the table's spelling: full name in the file}}}.

    A name belongs to the longest prefix that it begins with: "model.diffusion_model.adapter." lies
    within the UNet's.
    """
    owners = [
        (prefix, component.name, layout)
        for component in components
        if (layout := component.layouts.get(source.layout)) is not None
        for prefix in (layout.prefix, *layout.other_prefixes)
    ]
    owners.sort(key=lambda owner: -len(owner[0]))
    places: dict[str, dict[str, dict[str, str]]] = {}
    for name in source.tensors:
        owner = next((owner for owner in owners if name.startswith(owner[0])), None)
        if owner is not None:
            prefix, component, layout = owner
            names = places.setdefault(component, {}).setdefault(prefix, {})
            names[layout.canonical(name[len(prefix) :])] = name
    return places


def only_place(
    component: Component, places: Mapping[str, dict[str, str]]
) -> tuple[str, dict[str, str]]:
    """Returns the prefix under which a component stands, and its names.

    Raises:
      CheckpointError: it stands under several.
    """
    if len(places) > 1:
        raise CheckpointError(
            f"{component.name} stands in it {len(places)} times, under "
            f"{' and '.join(f'{prefix}*' for prefix in places)}; name the variable that the other "
            "one is of when loading it (variable=)"
        )
    return next(iter(places.items()))


def is_averaged(component: Component, prefix: str) -> bool:
    """Returns whether the original training averages a component: the UNet and what lies within."""
    return component.name == "unet" or prefix.startswith("model.diffusion_model.")


def averaged_names(source: Source, prefix: str, names: Mapping[str, str]) -> dict[str, str]:
    """Returns the same names with those of their averages in the file.

    Raises:
      CheckpointError: some have none.
    """
    # LitEma drops the dots: model_ema.diffusion_modelinput_blocks00weight
    averaged = {
        name: "model_ema." + f"{prefix.removeprefix('model.')}{name}".replace(".", "")
        for name in names
    }
    absent = [full for full in averaged.values() if full not in source.tensors]
    if absent:
        raise CheckpointError(
            f"use_ema asks for averaged weights, but {len(absent)} of {len(averaged)} are not in "
            f"the file (such as {absent[0]}); load it without use_ema"
        )
    return averaged
