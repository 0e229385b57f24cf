"""A full-size Compose and Conquer on this machine: seconds and peak memory of each part, as JSON.

    python benchmarks/full_size.py --manifest=tests/manifests/cnc_v1.json --folder=/tmp/full-size

Writes a file with every tensor of the released checkpoint (1.37 billion parameters, formula-made),
converts it, loads the converted directory and predicts noise at 512 x 512. Every part is a process
of its own, so that its peak memory is its own. Needs 12 GiB of disk.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from absl import app, flags

_MANIFEST = flags.DEFINE_string("manifest", "tests/manifests/cnc_v1.json", "Names and shapes.")
_FOLDER = flags.DEFINE_string("folder", None, "Where to write; kept.", required=True)
_PART = flags.DEFINE_enum("part", None, ["write", "predict"], "Run one part in this process.")

_FILE, _CONVERTED = "cnc.safetensors", "converted"


def write(folder: Path, manifest: Path) -> dict[str, float]:
    """Writes the checkpoint; returns its size."""
    from sd_jax.files import write_safetensors
    from sd_jax.testing import formula_tensors

    shapes = json.loads(manifest.read_text(encoding="utf-8"))
    tensors = list(formula_tensors(shapes).values())
    write_safetensors(folder / _FILE, tensors, None)
    return {"parameters": sum(tensor.nbytes for tensor in tensors) / 4}


def predict(folder: Path, manifest: Path) -> dict[str, float]:
    """Predicts noise twice; returns the seconds of loading, the first and the second call."""
    del manifest
    import jax
    import jax.numpy as jnp

    import cnc_jax

    seconds = {}
    start = time.perf_counter()
    model = cnc_jax.load(folder / _CONVERTED)
    jax.block_until_ready(model.params)
    seconds["load_s"] = time.perf_counter() - start
    condition = cnc_jax.Condition(
        depth_maps=jnp.full((1, 2, 512, 512, 3), 0.5),
        exemplar_embeddings=jnp.ones((1, 2, 768)),
        masks=jnp.zeros((1, 1, 512, 512)).at[:, :, 128:384, 128:384].set(1.0),
    )
    latents = jax.random.normal(jax.random.key(0), (1, 64, 64, 4))
    text = jax.random.normal(jax.random.key(1), (1, 77, 768))
    predict_noise = jax.jit(cnc_jax.predict_noise)
    for name in ("first_call_s", "second_call_s"):
        start = time.perf_counter()
        noise = jax.block_until_ready(
            predict_noise(model, latents, jnp.array([500]), text, condition)
        )
        seconds[name] = time.perf_counter() - start
    if not bool(jnp.isfinite(noise).all()) or noise.shape != latents.shape:
        raise FloatingPointError("the predicted noise is not finite")
    return seconds


def _measured(command: list[str]) -> dict[str, float]:
    """Runs a command; returns its seconds, its peak memory and what it printed last as JSON."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    output, _ = process.stdout.read(), process.stdout.close()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed with status {status}")
    result = {
        "seconds": round(time.perf_counter() - start, 1),
        "peak_GiB": round(usage.ru_maxrss / 2**20, 2),
    }
    if output.strip():
        result |= {name: round(n, 2) for name, n in json.loads(output.splitlines()[-1]).items()}
    return result


def main(argv: list[str]) -> None:
    """Runs all parts, or one of them in this process."""
    del argv
    folder, manifest = Path(_FOLDER.value), Path(_MANIFEST.value)
    if _PART.value is not None:
        part = {"write": write, "predict": predict}[_PART.value]
        print(json.dumps(part(folder, manifest)))
        return
    folder.mkdir(parents=True, exist_ok=True)
    own = [sys.executable, __file__, f"--folder={folder}", f"--manifest={manifest}"]
    convert = [sys.executable, "-m", "launch.convert", f"--source={folder / _FILE}"]
    commands = {
        "write": [*own, "--part=write"],
        "convert": [*convert, f"--output={folder / _CONVERTED}", "--overwrite"],
        "predict": [*own, "--part=predict"],
    }
    print(json.dumps({name: _measured(command) for name, command in commands.items()}, indent=2))


if __name__ == "__main__":
    app.run(main)
