"""Imports go down only, and the model code needs nothing but jax, flax, optax and numpy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import jaxtyping
import pytest

from sd_jax.attention import attention_weights

ROOT = Path(__file__).parents[1]

MODEL_PACKAGES = [
    name for name in ("sd_jax", "cnc_jax", "fgdm_jax") if (ROOT / name / "__init__.py").exists()
]

HEAVY = (
    "PIL",
    "cv2",
    "diffusers",
    "gradio",
    "grain",
    "ml_collections",
    "skimage",
    "tensorflow",
    "tensorflow_datasets",
    "tokenizers",
    "torch",
    "transformers",
)

# Imports every module of the packages named in argv[1] and prints which module brought in which of
# the packages named in argv[2]. Those named in argv[3] cannot be imported at all.
PROBE = """
import importlib, pkgutil, sys

packages, watched, missing = (argument.split() for argument in sys.argv[1:])

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
seen = set()

def visit(name):
    module = importlib.import_module(name)
    brought = {other for other in watched if other in sys.modules} - seen
    seen.update(brought)
    for other in sorted(brought):
        print(f"{name} imports {other}")
    for child in pkgutil.iter_modules(getattr(module, "__path__", ()), f"{name}."):
        visit(child.name)

for package in packages:
    visit(package)
print(sum(name.partition(".")[0] in packages for name in sys.modules), "modules", file=sys.stderr)
"""


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=480,
        check=False,
    )


def probe(*, watched: tuple[str, ...] = (), missing: tuple[str, ...] = ()) -> str:
    result = run_python("-c", PROBE, " ".join(MODEL_PACKAGES), " ".join(watched), " ".join(missing))
    assert result.returncode == 0, result.stderr
    assert int(result.stderr.splitlines()[-1].split()[0]) > len(MODEL_PACKAGES)
    return result.stdout


def test_import_contracts_hold():
    result = run_python(
        "-c",
        "from importlinter.cli import lint_imports_command as main; main()",
        "--no-cache",
        "--no-logo",
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_model_code_imports_nothing_heavy():
    assert probe(watched=HEAVY) == ""


def test_model_code_imports_on_a_machine_with_little_installed():
    assert probe(missing=(*HEAVY, "beartype", "jaxtyping")) == ""


def test_the_run_checks_shapes():
    query = jnp.zeros((1, 5, 2, 8))
    key = jnp.zeros((1, 7, 2, 8))
    assert attention_weights(query, key).shape == (1, 2, 5, 7)
    batch_of_two = jnp.concatenate([key, key])
    # jax itself would broadcast the batch of one.
    with pytest.raises(jaxtyping.TypeCheckError):
        attention_weights(query, batch_of_two)
