"""Weights that ship with the project, by the names that stand where a path could.

    scenes          the scenes prior, Compose and Conquer's fusers and FG-DM's adapters on it
    scenes-three    the scenes prior with a local fuser for three layers of depth
    scenes-prior    the Stable Diffusion alone, an ordinary diffusers folder

A file or folder that is called the same is named with a folder in front: ./scenes
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

_FOLDER = Path(__file__).parent / "data" / "scenes"

EMBEDDED: Mapping[str, tuple[str, ...]] = {
    "scenes": ("prior", "cnc", "fgdm"),
    "scenes-three": ("prior", "three"),
    "scenes-prior": ("prior",),
}
"""Folders, by name; each is a checkpoint of its own, and they complete one another."""


def is_embedded(path: str | Path) -> bool:
    """Returns whether a path is the name of weights that ship with the project.

    Args:
      path: as the user wrote it.
    """
    return str(path) in EMBEDDED


def embedded_folders(
    name: str | Path, components: Collection[str] | None = None
) -> tuple[Path, ...]:
    """Returns the folders of weights that ship with the project.

    Args:
      name: one of `EMBEDDED`.
      components: names; folders that hold none of them are left out. All folders unless given.
    """
    folders = (_FOLDER / part for part in EMBEDDED[str(name)])
    return tuple(
        folder
        for folder in folders
        if folder.is_dir()
        and (components is None or any((folder / item).is_dir() for item in components))
    )
