"""What every command starts and ends with."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import absl.logging
import jax
from absl import flags

_CACHE = "JAX_COMPILATION_CACHE_DIR"


@contextlib.contextmanager
def command() -> Iterator[None]:
    """Keeps compiled programs between runs, and turns the user's errors into one message.

    A ValueError and running out of memory are the user's to mend: they end the command with their
    message and exit status 2, without a traceback.
    """
    # jax and Orbax speak of their inner life at INFO; --verbosity=0 lets them.
    if not flags.FLAGS["verbosity"].present:
        absl.logging.set_verbosity(absl.logging.WARNING)
    if _CACHE not in os.environ:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(base) / "cnc_fgdm_jax" / "xla"))
    try:
        yield
    except (ValueError, FloatingPointError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print(
            "error: the device is out of memory; use a smaller --config.batch_size, "
            "--config.decode_slice=1, a smaller size, or --config.dtype=bfloat16\n"
            f"({str(error).splitlines()[0]})",
            file=sys.stderr,
        )
        raise SystemExit(2) from error
