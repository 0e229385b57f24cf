"""Packages, dependencies and extras; the settings of all tools are in `pyproject.toml`."""

from __future__ import annotations

from pathlib import Path

from setuptools import find_packages, setup

PACKAGES = ("sd_jax", "cnc_jax", "fgdm_jax", "input_pipeline", "configs", "launch")

# An unpinned torch brings the CUDA libraries along; `make test` pins the version it tests with.
TORCH = "torch>=2.6"

# Older ones let requests out of their upload folder on some systems (CVE-2026-28414).
GRADIO = "gradio>=6.7"

NOTEBOOKS = [
    TORCH,
    "ipykernel>=6.29",
    "matplotlib>=3.9",
]

TEST = [
    GRADIO,
    *NOTEBOOKS,
    "beartype>=0.20",
    "hypothesis>=6.100",
    "import-linter>=2.3",
    "nbclient>=0.10",
    "nbformat>=5.10",
    "onnxruntime>=1.20",
    "playwright>=1.50",
    "pyarrow>=18",
    "pytest>=8.3",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "scikit-image>=0.25",
]

LINT = [
    "pre-commit>=4.0",
    "pre-commit-hooks>=5.0",
    # The extra holds the node that pyright runs on, which it would otherwise download.
    "pyright[nodejs]>=1.1.400",
    "ruff>=0.12",
]

setup(
    name="cnc-fgdm-jax",
    version="0.1.0",
    description="Compose and Conquer and FG-DM: controllable Stable Diffusion 1.x in JAX",
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=[f"{name}*" for name in PACKAGES]),
    package_data={"sd_jax": ["data/*", "data/scenes/**"], "input_pipeline": ["data/*"]},
    python_requires=">=3.11",
    install_requires=[
        "absl-py>=2.1",
        "array_record>=0.6",
        "diffusers>=0.36",
        "filelock>=3.16",
        "flax>=0.12.6",
        "grain>=0.2.14",
        "jax>=0.10,<0.13",
        "jaxtyping>=0.3",
        "ml_collections>=1.0",
        "msgpack>=1.1",
        "numpy>=2.0",
        "optax>=0.2.6",
        "orbax-checkpoint>=0.11.30,<0.13",
        "pillow>=11",
        "psutil>=6.0",
        "rich>=13.9",
        "safetensors>=0.6",
        "tensorboardX>=2.6.2",
        "tensorflow-datasets>=4.9.9",
        "tokenizers>=0.22",
        "tqdm>=4.66",
        "transformers>=5.0",
    ],
    extras_require={
        "cuda12": ["jax[cuda12]"],
        "cuda13": ["jax[cuda13]"],
        "tpu": ["jax[tpu]"],
        "torch": [TORCH],
        "prepare": [
            TORCH,
            "onnxruntime>=1.20",
            "pyarrow>=18",
        ],
        "beam": ["apache-beam>=2.65"],
        "notebooks": NOTEBOOKS,
        "demo": [GRADIO],
        "wandb": ["wandb>=0.19"],
        "test": TEST,
        "dev": [*TEST, *LINT],
    },
)
