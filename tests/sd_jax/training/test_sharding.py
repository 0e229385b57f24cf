from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from cnc_jax.convert import COMPONENTS
from cnc_jax.load import CnCConfig
from cnc_jax.testing import tiny_config
from sd_jax.training.mesh import AXES
from sd_jax.training.optim import OPTIMIZERS, OptimizerConfig, make_optimizer
from sd_jax.training.sharding import REPLICATED, RULES, SMALL, describe_shardings, shardings
from sd_jax.training.state import make_state
from sd_jax.typing import flat_params, nested_params
from tests.sd_jax.training.device_process import run_on_devices


def abstract_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1) -> AbstractMesh:
    return AbstractMesh((data, fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * 3)


def floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def zeros_like(tree: dict) -> dict:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tree)


def params_of(config: CnCConfig) -> dict:
    return {
        component.name: component.abstract_params(getattr(config, component.name))
        for component in COMPONENTS
        if getattr(config, component.name) is not None
    }


def spec(path: str, shape: tuple[int, ...], mesh: AbstractMesh, rules=RULES) -> P:
    (sharding,) = jax.tree.leaves(shardings(nested_params({path: floats(*shape)}), mesh, rules))
    return sharding.spec


BOTH = ("tensor", "fsdp")


@pytest.mark.parametrize(
    ("path", "shape", "expected"),
    [
        ("unet/attn1/to_q/kernel", (320, 320), (None, BOTH)),
        ("unet/attn1/to_out_0/kernel", (320, 320), (BOTH, None)),
        ("unet/ff/net_0/kernel", (320, 2560), (None, BOTH)),
        ("unet/ff/net_2/kernel", (1280, 320), (BOTH, None)),
        ("text_encoder/self_attn/out_proj/kernel", (768, 768), (BOTH, None)),
        ("unet/resnets_0/conv1/kernel", (3, 3, 640, 320), (None, None, None, BOTH)),
        ("text_encoder/token_embedding/embedding", (49408, 768), (None, BOTH)),
        ("unet/resnets_0/conv1/bias", (40960,), ()),
        ("unet/conv_in/kernel", (3, 3, 4, 320), ()),  # small
    ],
)
def test_rules_for_stable_diffusions_names(path, shape, expected) -> None:
    assert spec(path, shape, abstract_mesh(2, 2, 2)) == P(*expected)


@pytest.mark.parametrize(
    ("shape", "mesh", "expected"),
    [
        # Without a tensor axis fsdp takes the largest axis that it divides.
        ((3, 3, 320, 640), abstract_mesh(fsdp=8), (None, None, None, "fsdp")),
        ((3, 3, 640, 320), abstract_mesh(fsdp=8), (None, None, "fsdp", None)),
        ((3, 3, 320, 641), abstract_mesh(fsdp=8), (None, None, "fsdp", None)),
        ((3, 3, 320, 640), abstract_mesh(data=8), ()),
        # Outputs that both divide, one, the other, and none; the inputs would be wrong.
        ((3, 3, 320, 16), abstract_mesh(fsdp=2, tensor=4), (None, None, None, BOTH)),
        ((3, 3, 320, 12), abstract_mesh(fsdp=2, tensor=4), (None, None, None, "tensor")),
        ((3, 3, 320, 642), abstract_mesh(fsdp=2, tensor=4), (None, None, None, "fsdp")),
        ((3, 3, 320, 641), abstract_mesh(fsdp=2, tensor=4), ()),
    ],
)
def test_an_axis_is_split_only_where_it_divides(shape, mesh, expected) -> None:
    found = jax.tree.leaves(shardings({"kernel": floats(*shape)}, mesh, small=0))[0].spec
    assert found == P(*expected)


@given(
    shape=st.lists(st.sampled_from([1, 3, 4, 6, 8, 12, 320]), min_size=1, max_size=4),
    sizes=st.tuples(*[st.sampled_from([1, 2, 3, 4, 8])] * 3),
    name=st.sampled_from(["kernel", "to_out_0/kernel", "embedding", "bias"]),
)
def test_one_axis_is_split_and_in_equal_parts(shape, sizes, name) -> None:
    mesh = abstract_mesh(*sizes)
    (sharding,) = jax.tree.leaves(shardings(nested_params({name: floats(*shape)}), mesh, small=0))
    assert sum(axis is not None for axis in sharding.spec) <= 1
    used = jax.tree.leaves(tuple(sharding.spec))
    assert set(used) <= {"fsdp", "tensor"}
    split = math.prod(mesh.shape[axis] for axis in used)
    assert math.prod(sharding.shard_shape(tuple(shape))) * split == math.prod(shape)


def test_almost_nothing_of_the_model_is_left_whole() -> None:
    params = params_of(tiny_config())
    for sizes in ((1, 8, 1), (1, 1, 8), (2, 2, 2)):
        chosen = flat_params(shardings(params, abstract_mesh(*sizes)))
        whole = {path for path, sharding in chosen.items() if not any(sharding.spec)}
        flat = flat_params(params)
        assert [path for path in whole if math.prod(flat[path].shape) >= SMALL] == []


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_moments_are_split_like_their_parameters(name) -> None:
    params = {"local_fuser": params_of(tiny_config())["local_fuser"]}
    optimizer = make_optimizer(OptimizerConfig(name=name, max_grad_norm=1.0))
    state = jax.eval_shape(lambda: make_state(zeros_like(params), optimizer, has_ema=True))
    mesh = abstract_mesh(2, 2, 2)
    chosen = shardings(state, mesh)
    assert chosen.ema == chosen.params
    assert chosen.step.spec == chosen.skipped.spec == P()
    expected = {
        path: (leaf.shape, sharding)
        for (path, leaf), sharding in zip(
            flat_params(params).items(), flat_params(chosen.params).values(), strict=True
        )
    }
    moments = jax.tree_util.tree_leaves_with_path(state.opt_state)
    matched = 0
    for (path, leaf), sharding in zip(moments, jax.tree.leaves(chosen.opt_state), strict=True):
        place = jax.tree_util.keystr(path, simple=True, separator="/")
        shape, of_parameter = expected.get(place[place.find("local_fuser") :], ((), None))
        if leaf.shape == shape and leaf.size >= SMALL:
            matched += 1
            assert sharding == of_parameter, place
            assert BOTH in sharding.spec, place
    assert matched > 0


def test_moments_of_another_rank_are_whole() -> None:
    # As Adafactor keeps sums over rows and columns, under the parameter's path.
    state = {"v_row": {"conv1": {"kernel": floats(3, 3, 40960)}, "to_q": {"kernel": floats(40960)}}}
    assert all(
        leaf.spec == P() for leaf in jax.tree.leaves(shardings(state, abstract_mesh(fsdp=8)))
    )


def test_rules_can_be_replaced() -> None:
    mesh = abstract_mesh(2, 2, 2)
    assert spec("unet/conv/kernel", (3, 3, 320, 320), mesh, REPLICATED) == P()
    rules = ((r"net_0/kernel", (None, None)), *RULES)
    assert spec("unet/ff/net_0/kernel", (320, 2560), mesh, rules) == P()
    # The pattern is of the path's last parts, whole.
    assert spec("unet/ff/subnet_0/kernel", (320, 2560), mesh, rules) == P(None, BOTH)


def test_a_rule_with_an_unknown_axis_is_named() -> None:
    with pytest.raises(ValueError, match=r"'fsdp' and 'tensor'.*'model'"):
        spec("kernel", (320, 320), abstract_mesh(), (("kernel", (None, "model")),))


def test_the_description_adds_up() -> None:
    params = {
        "to_q": {"kernel": floats(1000, 1000)},
        "conv": {"kernel": floats(3, 3, 500, 1002)},
        "norm": {"scale": floats(500)},
    }
    mesh = abstract_mesh(fsdp=2, tensor=4)
    lines = describe_shardings(params, shardings(params, mesh)).splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "split over values in all on each device",
        "fsdp=2 4.51 million 17.2 MiB 8.60 MiB",
        "fsdp=2 x tensor=4 1.00 million 3.81 MiB 488 KiB",
        "(whole) 500 1.95 KiB 1.95 KiB",
        "total 5.51 million 21.0 MiB 9.08 MiB",
    ]


def test_every_mesh_gives_the_numbers_of_one_device() -> None:
    shapes = {
        "data": (8, 1, 1),
        "fsdp": (1, 8, 1),
        "tensor": (1, 1, 8),
        "all": (2, 2, 2),
    }
    (found,) = run_on_devices("sharding_script.py", list(shapes.values()))
    for name, (loss_error, gradient_error, share, kept) in zip(shapes, found, strict=True):
        assert loss_error < 1e-6, name
        assert gradient_error < 1e-5, name
        assert kept, name
        # Of the tiny network's bytes the biases and norms are a good part.
        assert (share == 1) if name == "data" else (share < 0.35), (name, share)
