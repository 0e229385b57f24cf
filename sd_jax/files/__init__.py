"""Tensor files in and out: validated safetensors, and torch files that never run code."""

from sd_jax.files.safetensors_file import read_metadata
from sd_jax.files.tensors import CorruptFileError, LazyTensor, UnsafeFileError, open_tensors
from sd_jax.files.write import write_safetensors, write_torch

__all__ = [
    "CorruptFileError",
    "LazyTensor",
    "UnsafeFileError",
    "open_tensors",
    "read_metadata",
    "write_safetensors",
    "write_torch",
]
