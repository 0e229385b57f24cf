from __future__ import annotations

import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from configs.cnc import get_config
from sd_jax.remat import REMATS
from sd_jax.training.preflight import (
    Memory,
    check_memory,
    device_memory,
    memory_of,
    memory_report,
    parameter_table,
)
from tests.sd_jax.training.device_process import run_on_devices

GIB = 2**30
MEMORY = Memory(
    arguments=11 * GIB, outputs=10 * GIB + 5, aliased=10 * GIB, temporaries=20 * GIB - 5
)


def array(*shape: int, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def refusal(memory: Memory, limit: int, **settings) -> str:
    with pytest.raises(ValueError, match="a step needs") as caught:
        check_memory(memory, limit, settings)
    return str(caught.value)


def named(text: str) -> list[str]:
    """Returns the settings of the remedies, in order."""
    return re.findall(r"^- --config\.(\w+)", text, re.MULTILINE)


def test_the_table_of_parameters() -> None:
    params = {"local_fuser": {"a": array(1000, 2000), "b": {"c": array(24)}}}
    frozen = {
        "unet": {"kernel": array(3, 1000, 1000, dtype=jnp.bfloat16)},
        "local_fuser": {"d": array(500)},
    }
    lines = [" ".join(line.split()) for line in parameter_table(params, frozen).splitlines()]
    assert lines == [
        "component trainable frozen memory",
        "local_fuser 2.00 million 500 float32 7.63 MiB",
        "unet 3.00 million bfloat16 5.72 MiB",
        "total 2.00 million 3.00 million 13.4 MiB",
    ]


def test_columns_of_the_table_are_aligned() -> None:
    lines = parameter_table({"a": {"k": array(5)}}, {"bbb": {"k": array(1234)}}).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[2].index("1,234") == lines[0].index("frozen") + 1


def test_donated_arguments_count_once() -> None:
    assert MEMORY.total == 31 * GIB
    program = jax.jit(lambda state, x: (state + x, x.sum()), donate_argnums=0)
    found = memory_of(program.lower(array(256, 256), array(256, 256)).compile())
    assert found.arguments == 2 * 256 * 256 * 4
    assert found.aliased == 256 * 256 * 4
    assert found.total >= found.arguments
    assert found.total < 3 * 256 * 256 * 4


@pytest.mark.usefixtures("unchecked")
def test_a_backend_that_does_not_tell_is_never_refused() -> None:
    compiled = SimpleNamespace(memory_analysis=lambda: None)
    check_memory(memory_of(compiled), 1, {})  # type: ignore[arg-type]


def test_memory_is_that_of_one_device() -> None:
    ((arguments, outputs, aliased, limit),) = run_on_devices("preflight_script.py")
    whole = 64 * 1024 * 4
    # The outputs hold a table of pointers too, on some backends.
    assert arguments == 2 * whole // 8
    assert whole // 8 <= outputs < whole // 4
    assert aliased == whole // 8
    assert limit < device_memory(jax.devices("cpu")[0]) / 4  # type: ignore[operator]


def test_memory_of_devices() -> None:
    gpu = SimpleNamespace(memory_stats=lambda: {"bytes_limit": 5 * GIB}, platform="gpu")
    silent = SimpleNamespace(memory_stats=lambda: None, platform="gpu")
    cpu = SimpleNamespace(memory_stats=lambda: None, platform="cpu")
    assert device_memory(gpu) == 5 * GIB
    assert device_memory(silent) is None
    assert 2**26 < (device_memory(cpu) or 0) < 2**44


@pytest.mark.parametrize("limit", [None, 31 * GIB, 80 * GIB])
def test_what_fits_or_is_not_known_is_let_through(limit) -> None:
    check_memory(MEMORY, limit, {})


def test_the_refusal_tells_amounts_and_remedies_in_order() -> None:
    text = refusal(MEMORY, 24 * GIB, **get_config().to_dict())
    assert "31.0 GiB (11.0 GiB parameters, optimizer and batch, 20.0 GiB activations" in text
    assert "which has 24.0 GiB" in text
    assert named(text) == [
        *("dtype", "remat", "accumulation", "latents"),
        *("frozen_dtype", "optimizer", "global_batch_size"),
    ]
    assert "--config.accumulation=2 (now 1)" in text
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" in text


def test_a_config_with_get_is_enough() -> None:
    with pytest.raises(ValueError, match="a step needs"):
        check_memory(MEMORY, GIB, get_config())


def test_all_named_settings_exist() -> None:
    config = get_config()
    text = refusal(MEMORY, 24 * GIB, **config.to_dict())
    for name, value in re.findall(r"--config\.(\w+)(?:=(\w+))?", text):
        assert name in config
        if value:
            assert isinstance(config[name], int if value.isdigit() else str), name


def test_what_is_done_already_is_not_advised() -> None:
    text = refusal(
        MEMORY,
        24 * GIB,
        dtype="bfloat16",
        frozen_dtype="bfloat16",
        remat="blocks",
        optimizer="adamw8bit",
        accumulation=32,
        global_batch_size=32,
        latents="cached",
    )
    assert named(text) == ["global_batch_size"]


@pytest.mark.parametrize(
    ("now", "more"), [("none", "layers"), ("dots", "layers"), ("layers", "blocks")]
)
def test_the_next_remat(now, more) -> None:
    assert f"remat={more} (now {now})" in refusal(MEMORY, 24 * GIB, remat=now)
    assert more in REMATS


def test_several_devices_can_share(monkeypatch) -> None:
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    text = refusal(MEMORY, 24 * GIB, fsdp=1, frozen="replicated")
    assert "--config.fsdp=8 (now 1)" in text
    assert "--config.frozen=sharded" in text
    assert "fsdp" not in named(refusal(MEMORY, 24 * GIB, fsdp=8, frozen="sharded"))


def test_smaller_activations_are_not_advised_where_parameters_alone_are_too_large() -> None:
    text = refusal(MEMORY, 8 * GIB, **get_config().to_dict())
    assert "remat" not in named(text)
    assert "accumulation" not in named(text)
    assert named(text)[0] == "frozen_dtype"
    assert "more devices" in text


def test_the_report_says_which_cards_are_large_enough() -> None:
    lines = memory_report(MEMORY).splitlines()
    assert lines[0].startswith("needs 31.0 GiB")
    assert lines[1:] == [
        "  24 GB: too small, 1.4 x needed",
        "  40 GB: fits, 84% used",
        "  80 GB: fits, 42% used",
        "  141 GB: fits, 24% used",
    ]
    assert memory_report(MEMORY, {"tiny": GIB}).splitlines()[1:] == [
        "  tiny: too small, 33.7 x needed"
    ]
