"""record.json of an output folder: what was asked for, made and used, so that it can be repeated.

A record stands for a whole run: an old one goes before the first file is written, the new one
comes after the last.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from input_pipeline.images import write_png
from sd_jax.attention import implementations_used
from sd_jax.embedded import embedded_folders, is_embedded

_HASHED_BYTES = 64 * 2**20


class Record:
    """The output folder of a run that samples, and its record as it grows.

    Args:
      config: settings of the run: `output`, `record` (what it repeats, if anything), `prompt`.
      files: that the run reads, without checkpoints.
      checkpoints: that the run reads.
    """

    def __init__(self, config: Any, files: Iterable[Path], checkpoints: Iterable[Path]) -> None:
        # Read before anything goes: it may lie in this folder.
        self._earlier = None
        if config.record:
            self._earlier = json.loads(Path(config.record).read_text(encoding="utf-8"))
        self.folder = Path(config.output)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "record.json").unlink(missing_ok=True)
        self._config, self._files, self._checkpoints = config, list(files), list(checkpoints)
        self._images: list[dict[str, Any]] = []
        self._seconds: dict[str, list[float]] = {}

    @contextlib.contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Keeps the seconds of a block; the first of several includes the compilation.

        Args:
          part: of the work.
        """
        start = time.perf_counter()
        yield
        self._seconds.setdefault(part, []).append(round(time.perf_counter() - start, 3))

    @property
    def seconds(self) -> Mapping[str, list[float]]:
        """Durations by part of the work."""
        return self._seconds

    def write_image(self, name: str, pixels: np.ndarray, seed: int, **facts: Any) -> None:
        """Writes a picture that is a result.

        Args:
          name: of the file.
          pixels: uint8 [h w 3].
          seed: of its noise.
          **facts: further entries of the record.
        """
        text = {"prompt": self._config.prompt, "seed": str(seed)}
        write_png(self.folder / name, pixels, text=text)
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()
        self._images.append({"file": name, "seed": seed, "sha256_of_pixels": digest, **facts})

    def finish(self, **more: Any) -> Path:
        """Writes the record; returns the folder.

        Args:
          **more: further parts of the record.
        """
        content = {
            "config": {**self._config.to_dict(), "record": ""},
            "images": self._images,
            "inputs": {str(path): _sha256(path) for path in self._files},
            "checkpoints": {str(path): _identity(path) for path in self._checkpoints},
            **more,
            "seconds": self._seconds,
            "device": jax.devices()[0].device_kind,
            "attention": sorted(implementations_used()),
            "versions": {
                name: version_of(name) for name in ("cnc-fgdm-jax", "jax", "jaxlib", "flax")
            },
        }
        self._compare(content)
        temporary = self.folder / ".record.json"
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, self.folder / "record.json")
        return self.folder

    def _compare(self, content: Mapping[str, Any]) -> None:
        """Warns where a repetition differs from the run that it repeats."""
        earlier = self._earlier
        if earlier is None:
            return
        for part in ("inputs", "checkpoints"):
            for path, identity in earlier[part].items():
                if content[part].get(path) != identity:
                    warnings.warn(f"{path} is not what the record was made with", stacklevel=3)
        if content["images"] != earlier["images"]:
            warnings.warn(
                "the pixels differ from the record's: another device, version, file or setting",
                stacklevel=3,
            )


def version_of(name: str) -> str:
    """Returns the installed version of a package, in words if there is none.

    Args:
      name: of the package.
    """
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _identity(path: Path) -> dict[str, Any]:
    """Returns size and, of the beginning, hash: what tells checkpoints apart in little time."""
    folders = embedded_folders(path) if is_embedded(path) else (path,)
    if folders[0].is_dir():
        found = (file for folder in folders for file in sorted(folder.rglob("*")))
        files = [file for file in found if file.is_file()]
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
