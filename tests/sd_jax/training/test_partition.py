"""Trainable and frozen parameters."""

from __future__ import annotations

import pytest

from sd_jax.training.partition import merge_params, split_params

PARAMS = {"unet": {"a": {"kernel": 1}, "b": 2}, "local_fuser": {"a": {"kernel": 3}}}


def test_split_and_merge():
    trainable, frozen = split_params(PARAMS, ["local_fuser/.*", "unet/b"])
    assert trainable == {"local_fuser": {"a": {"kernel": 3}}, "unet": {"b": 2}}
    assert frozen == {"unet": {"a": {"kernel": 1}}}
    assert merge_params(trainable, frozen) == PARAMS


def test_all_may_be_trainable():
    trainable, frozen = split_params(PARAMS, [".*"])
    assert trainable == PARAMS
    assert frozen == {}
    assert merge_params(trainable, frozen) == PARAMS


def test_patterns_that_match_nothing_are_listed():
    with pytest.raises(ValueError, match=r"'fuser/\.\*', 'une'.*local_fuser, unet"):
        split_params(PARAMS, ["unet/.*", "fuser/.*", "une"])
    with pytest.raises(ValueError, match="empty list"):
        split_params(PARAMS, [])


def test_a_path_cannot_be_on_both_sides():
    with pytest.raises(ValueError, match="unet/b"):
        merge_params({"unet": {"b": 1}}, PARAMS)
