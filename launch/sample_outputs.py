"""What `launch.sample` writes: a PNG for each image, a contact sheet, and the record."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

from input_pipeline.contact_sheet import Picture, contact_sheet
from input_pipeline.images import to_uint8, write_png
from launch.sample_inputs import LayerInputs
from launch.sample_request import SampleRequest
from sd_jax.attention import implementations_used

_HASHED_BYTES = 64 * 2**20


class Outputs:
    """The output folder; each image is written as soon as it is there.

    Args:
      request: what was asked for.
      inputs: what its files hold.
    """

    def __init__(
        self, request: SampleRequest, inputs: LayerInputs, maps: np.ndarray | None
    ) -> None:
        self.request, self.inputs, self._maps = request, inputs, maps
        self.folder = Path(request.config.output)
        self.folder.mkdir(parents=True, exist_ok=True)
        # A record stands for a whole run: the old one goes first, the new one comes last.
        (self.folder / "record.json").unlink(missing_ok=True)
        self._earlier = _earlier_record(request)
        self._pictures: list[Picture] = []
        self._images: list[dict[str, Any]] = []
        self._seconds: dict[str, list[float]] = {}

    def add_seconds(self, part: str, seconds: float) -> None:
        """Keeps the duration of a part; the first of several includes the compilation."""
        self._seconds.setdefault(part, []).append(round(seconds, 3))

    def add_images(
        self, seeds: tuple[int, ...], images: np.ndarray, flagged: np.ndarray | None
    ) -> None:
        """Writes images; those that the safety checker flagged become black.

        Args:
          seeds: of the images.
          images: [image height width 3] in [-1, 1].
          flagged: for each image, or None without a safety checker.
        """
        for index, (seed, image) in enumerate(zip(seeds, images, strict=True)):
            black = bool(flagged[index]) if flagged is not None else False
            pixels = np.zeros_like(to_uint8(image)) if black else to_uint8(image)
            name = f"{seed:06d}.png"
            text = {"prompt": self.request.config.prompt, "seed": str(seed)}
            write_png(self.folder / name, pixels, text=text)
            self._images.append(
                {
                    "file": name,
                    "seed": seed,
                    "sha256_of_pixels": hashlib.sha256(pixels.tobytes()).hexdigest(),
                    "flagged_by_safety_checker": black if flagged is not None else None,
                }
            )
            self._pictures.append(Picture(f"seed {seed}", pixels))

    def finish(self) -> Path:
        """Writes contact sheet and record; returns the folder."""
        rows = [row for row in (self._condition_row(), *self._image_rows()) if row]
        sheet = contact_sheet(rows, title=self.request.config.prompt or None)
        write_png(self.folder / "contact_sheet.png", sheet)
        content = self._record()
        self._compare(content)
        record = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        temporary = self.folder / ".record.json"
        temporary.write_text(record, encoding="utf-8")
        os.replace(temporary, self.folder / "record.json")
        return self.folder

    def _compare(self, content: dict[str, Any]) -> None:
        """Warns where a repetition differs from the run that it repeats."""
        earlier = self._earlier
        if earlier is None:
            return
        for part in ("inputs", "checkpoints"):
            for path, identity in earlier[part].items():
                if content[part].get(path) != identity:
                    warnings.warn(f"{path} is not what the record was made with", stacklevel=2)
        if content["images"] != earlier["images"]:
            warnings.warn(
                "the pixels differ from the record's: another device, version, file or setting",
                stacklevel=2,
            )

    def _condition_row(self) -> list[Picture]:
        kind = self.request.config.local_condition
        row = []
        if self._maps is not None:
            row += [Picture.depth_map(f"{kind} {i}", m) for i, m in enumerate(self._maps)]
        for index, exemplar in enumerate(self.inputs.exemplars):
            if exemplar is not None:
                row.append(Picture(f"exemplar {index}", exemplar))
        if self.inputs.masks is not None:
            row += [Picture.mask(f"mask {i}", m) for i, m in enumerate(self.inputs.masks)]
        return row

    def _image_rows(self) -> list[list[Picture]]:
        columns = 4
        return [self._pictures[i : i + columns] for i in range(0, len(self._pictures), columns)]

    def _record(self) -> dict[str, Any]:
        request = self.request
        files = [
            path
            for paths in (request.depth_maps, request.photos, request.exemplars, request.masks)
            for path in paths
            if path is not None
        ]
        return {
            "config": {**request.config.to_dict(), "record": ""},
            "images": self._images,
            "inputs": {str(path): _sha256(path) for path in files},
            "checkpoints": {str(path): _identity(path) for path in request.checkpoints},
            "seconds": self._seconds,
            "device": jax.devices()[0].device_kind,
            "attention": sorted(implementations_used()),
            "versions": {
                name: _version(name) for name in ("cnc-fgdm-jax", "jax", "jaxlib", "flax")
            },
        }


def _earlier_record(request: SampleRequest) -> dict[str, Any] | None:
    """Returns the record that the request repeats, if it repeats one."""
    if not request.config.record:
        return None
    return json.loads(Path(request.config.record).read_text(encoding="utf-8"))


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _identity(path: Path) -> dict[str, Any]:
    """Returns size and, of the beginning, hash: what tells checkpoints apart in little time."""
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.is_file()]
        beginnings = hashlib.sha256()
        for file in files:
            with file.open("rb") as opened:
                beginnings.update(opened.read(_HASHED_BYTES))
        return {
            "bytes": sum(file.stat().st_size for file in files),
            "sha256_of_beginnings": beginnings.hexdigest(),
        }
    with path.open("rb") as file:
        beginning = file.read(_HASHED_BYTES)
    return {
        "bytes": path.stat().st_size,
        f"sha256_of_first_{_HASHED_BYTES}_bytes": hashlib.sha256(beginning).hexdigest(),
    }
