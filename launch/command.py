"""What every command starts and ends with."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import os
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import absl.logging
import jax
from absl import app, flags

from launch.settings_help import describe_settings

_CACHE = "JAX_COMPILATION_CACHE_DIR"
_USERS_ERROR = 2
_STOPPED = 130
_GOODBYE_S = 10
_HELP = {"--help", "-help", "-h", "--helpshort", "--helpfull", "-?"}


def run(main: Callable[[], None], settings: str | None = None) -> None:
    """Runs a command; a flag that cannot be used ends it with one message and status 2.

    Args:
      main: the command.
      settings: module of its config file, of which `--help` shows every setting; another file
        under configs/ that the command line names takes its place.
    """
    try:
        app.run(lambda argv: main(), flags_parser=functools.partial(_parse_flags, settings))
    except SystemExit as end:
        if end.code in (_USERS_ERROR, _STOPPED):
            _leave(end.code)
        raise
    except Exception:
        if jax.distributed.is_initialized():
            traceback.print_exc()
            _leave(1)
        raise


def _leave(status: int) -> None:
    """Ends the process where its usual end would wait, or fall over what other threads are doing.

    Several processes say goodbye to each other; one that fails alone cannot wait for those that
    wait for it in the middle of a step. And a compiler that is interrupted crashes at the end.
    """
    if status != _STOPPED:
        if not jax.distributed.is_initialized():
            return
        goodbye = threading.Thread(target=jax.distributed.shutdown, daemon=True)
        goodbye.start()
        goodbye.join(_GOODBYE_S)
        if not goodbye.is_alive():
            return
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _parse_flags(settings: str | None, argv: list[str]) -> list[str]:
    if not _HELP.isdisjoint(argv):
        module, argument = (settings and _named_settings(argv)) or (settings, None)
        print(_help(module, argument))
        raise SystemExit(0)
    try:
        rest = flags.FLAGS(argv)
    except (flags.Error, ValueError, AttributeError, KeyError, OSError) as error:
        # ml_collections wraps what a config file raised; the first cause says it best.
        cause: BaseException = error
        while cause.__context__ is not None and isinstance(cause.__context__, ValueError):
            cause = cause.__context__
        _fail(f"{_in_words(cause, argv)}; --help lists the settings")
    if len(rest) > 1:
        _fail(f"unknown arguments: {' '.join(rest[1:])}; --help lists what there is")
    return rest


def _named_settings(argv: list[str]) -> tuple[str, str | None] | None:
    """Returns the module and argument of the config file that the flags name, if it is ours."""
    named = re.search(r"\bconfigs/(\w+)\.py(?::(\S+))?", " ".join(argv[1:]))
    module = f"configs.{named[1]}" if named else ""
    return (module, named[2]) if named and importlib.util.find_spec(module) else None


def _in_words(cause: BaseException, argv: list[str]) -> str:
    """Returns what is wrong with the flags."""
    # A KeyError's text is the representation of its text, here of a KeyError's text again.
    text = str(cause.args[0] if isinstance(cause, KeyError) and cause.args else cause).strip()
    unknown = re.search(r"Did you mean [\"'](\w+)[\"'] instead of [\"'](\w+)[\"']", text)
    if unknown is not None:
        return f"there is no setting {unknown[2]!r}; did you mean {unknown[1]!r}?"
    value = re.search(
        r"(?:could not convert string to float|invalid literal for int).*: '(.*)'", text
    )
    if value is not None:
        flag = next((item for item in argv if item.endswith(f"={value[1]}")), value[1])
        kind = "a whole number" if "int()" in text else "a number"
        return f"{flag.lstrip('-')}: expected {kind}"
    return text


def _help(settings: str | None, argument: str | None) -> str:
    parts = [inspect.cleandoc(sys.modules["__main__"].__doc__ or "")]
    parts.append(flags.FLAGS.main_module_help().rstrip())
    if settings is not None:
        try:
            parts.append(describe_settings(settings, argument))
        except ValueError as error:
            _fail(str(error))
    return "\n\n".join(parts)


_MEMORY = (
    "use a smaller --config.batch_size, --config.decode_slice=1, a smaller size, or "
    "--config.dtype=bfloat16"
)


@contextlib.contextmanager
def command(out_of_memory: str = _MEMORY) -> Iterator[None]:
    """Keeps compiled programs between runs, and turns the user's errors into one message.

    A ValueError, a file that cannot be written and running out of memory are the user's to mend:
    they end the command with their message and exit status 2. `--verbosity=1` adds the traceback.

    Args:
      out_of_memory: what to do about a device without memory.
    """
    if _CACHE not in os.environ:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(base) / "cnc_fgdm_jax" / "xla"))
    # jax and Orbax speak of their inner life at INFO; --verbosity=0 lets them.
    if not flags.FLAGS["verbosity"].present:
        absl.logging.set_verbosity(absl.logging.WARNING)
    warnings.showwarning = _show_warning
    try:
        yield
    except (ValueError, FloatingPointError, ImportError, OSError) as error:
        if absl.logging.get_verbosity() >= absl.logging.DEBUG:
            traceback.print_exc()
        _fail(str(error))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(_STOPPED) from None
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        _fail(f"the device is out of memory; {out_of_memory}\n({str(error).splitlines()[0]})")


def _show_warning(message: Any, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(_USERS_ERROR)
