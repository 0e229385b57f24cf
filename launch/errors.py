"""Errors that are the user's to mend end a command with their message, not with a traceback."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Prints a ValueError (and running out of memory) and exits with 2."""
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
