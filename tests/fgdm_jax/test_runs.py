from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from fgdm_jax.runs import FactorRun
from fgdm_jax.sampling import initial_joint_state, joint_steps, sample_jointly
from fgdm_jax.timetable import joint_rows
from tests.fgdm_jax.toy_factors import GIVEN, KEYS, SHAPE, only, problems_of, tables, toy


@pytest.mark.parametrize(
    ("names", "given", "expected"),
    [
        (
            ["image"],
            {"depth": GIVEN},
            ["parent 'segmentation' of 'image' is neither run nor given"],
        ),
        (
            ["depth", "segmentation"],
            {},
            ["'depth' comes before its parent 'segmentation'; order runs by sampling_order"],
        ),
        (["segmentation"], {"segmentation": GIVEN}, ["'segmentation' is both run and given"]),
        (["segmentation"], {"deth": GIVEN}, ["unknown variable 'deth'; did you mean 'depth'?"]),
        (
            ["segmentation"],
            {"depth": GIVEN[:1]},
            ["given 'depth' must be latents [2, height, width"],
        ),
        (
            ["depth"],
            {"segmentation": GIVEN[0]},
            ["one for each of the 2 keys, got shape (4, 6, 4)"],
        ),
        (
            ["depth"],
            {"segmentation": GIVEN[..., :3]},
            ["'depth' has 4 channels, its parent 'segmentation' 3"],
        ),
        (
            ["depth"],
            {"segmentation": GIVEN[:, :, :4]},
            ["parent 'segmentation' of 'depth' is 4 x 4, which would be stretched to 4 x 6"],
        ),
    ],
)
def test_each_defect_is_told(names, given, expected):
    lines = problems_of(sample_jointly, only(*names), tables(*names), KEYS, given)
    assert len(lines) == len(expected)
    for line, text in zip(lines, expected, strict=True):
        assert text in line


def test_all_defects_are_told_at_once():
    runs = {"dept": toy(1.0), **only("image", "depth")}
    given = {"depth": GIVEN, "pose": GIVEN[:1]}
    state = initial_joint_state({"image": (4, 4, 4), "sketch": SHAPE}, KEYS)
    rows = joint_rows(tables("image", "normal"), keep=(0,))
    lines = problems_of(joint_steps, runs, rows, state, KEYS, given)
    assert [line.split(";")[0] for line in lines] == [
        "unknown variable 'dept'",
        "'depth' is both run and given",
        "no sampler table for 'dept'",
        "no sampler table for 'depth'",
        "a sampler table for 'normal', which is not run",
        "no state for 'dept'",
        "no state for 'depth'",
        "a state for 'sketch', which is not run",
        "the rows keep 1 steps and the state of 'dept' has room for 0",
        "the state of 'image' must have shape (2, 4, 6, 4), got (2, 4, 4, 4)",
        "the rows keep 1 steps and the state of 'image' has room for 0",
        "the rows keep 1 steps and the state of 'depth' has room for 0",
        "given 'pose' must be latents [2, height, width, channels], one for each of the 2 keys, "
        "got shape (1, 4, 6, 4)",
        "parent 'segmentation' of 'image' is neither run nor given",
        "parent 'segmentation' of 'depth' is neither run nor given",
    ]


def test_sizes_of_nearly_the_same_shape_pass():
    given = {"segmentation": jnp.zeros((2, 21, 32, 4))}
    runs = {"depth": FactorRun(lambda latents, *_: latents, (40, 64), parents=("segmentation",))}
    jax.eval_shape(lambda *args: sample_jointly(runs, *args), tables("depth"), KEYS, given)
