"""What every test runs under: the CPU, no network, strict broadcasting and cached compilation."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

_GROWTH = 2 * 2**30
_QUICK = "JAX_DISABLE_MOST_OPTIMIZATIONS"

# Before any test can import transformers or torch, which read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:
    # As many torch threads as cores in each worker would only fight for the cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    jax.config.update("jax_numpy_rank_promotion", "raise")
    # An accelerator would change the numbers that most tests assert; only GPU tests look for one.
    if not _looks_for_gpus(config):
        _set_default("JAX_PLATFORMS", "cpu")
    if hasattr(config, "cache"):
        _set_default("JAX_COMPILATION_CACHE_DIR", str(config.cache.mkdir("jax")))
        # With a limit jax locks the folder, without one parallel workers read half-written entries.
        # Each write then visits all entries: few and large ones keep that far below the compiling.
        _set_default("JAX_COMPILATION_CACHE_MAX_SIZE", 2**27)
        _set_default("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", 0.5)


def _looks_for_gpus(config: pytest.Config) -> bool:
    return re.search(r"(?<!not )\bgpu\b", config.option.markexpr) is not None


def _set_default(variable: str, value: str | float) -> None:
    """Sets an option of jax, unless the user did, here and in the processes that tests start."""
    if variable not in os.environ:
        os.environ[variable] = str(value)
        jax.config.update(variable.lower(), value)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and jax.default_backend() != "gpu":
        pytest.skip("needs a GPU that jax sees; select the GPU tests with `pytest -m gpu`")


@pytest.fixture(autouse=True, scope="module")
def _quick_programs(request: pytest.FixtureRequest) -> Iterator[None]:
    """Most tests compile longer than they run: a quarter less in all with programs that are slower.

    In a module marked `optimized` they are as users have them, here and in the processes it starts.
    """
    is_quick = request.node.get_closest_marker("optimized") is None and not _looks_for_gpus(
        request.config
    )
    with pytest.MonkeyPatch.context() as patch:
        if _QUICK not in os.environ:
            patch.setenv(_QUICK, str(int(is_quick)))
            jax.config.update(_QUICK.lower(), is_quick)
        yield


@pytest.fixture(autouse=True, scope="module")
def _forget_programs() -> Iterator[None]:
    """Compiled programs stay in the process: thousands of tests would gather gigabytes of them."""
    yield
    if _resident_bytes() > _Memory.limit:
        jax.clear_caches()
        # What is freed is seldom given back to the system, and each clearing costs compiling.
        _Memory.limit = max(_Memory.limit, _resident_bytes() + _GROWTH)


class _Memory:
    """From how many bytes on this process forgets what it compiled."""

    limit = 5 * 2**30


def _resident_bytes() -> int:
    memory = Path("/proc/self/statm")
    if not memory.exists():
        return 0
    return int(memory.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def rng() -> np.random.Generator:
    """Returns the same generator in every run."""
    return np.random.default_rng(0)
