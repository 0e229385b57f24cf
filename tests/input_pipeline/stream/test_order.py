from __future__ import annotations

import collections

import numpy as np
import pytest

from input_pipeline.stream.order import mix, permuted, split


def shuffled(length: int, key: int) -> list[int]:
    keys = np.full(length, key, np.uint64)
    return permuted(np.arange(length), length, keys).tolist()


@pytest.mark.parametrize("length", [1, 2, 3, 5, 63, 64, 65, 1000, 4096, 4097])
def test_a_shuffle_has_everything_once(length: int) -> None:
    assert sorted(shuffled(length, 7)) == list(range(length))


def test_shuffles_are_random_and_independent() -> None:
    trials = 4000
    keys = np.array([mix(key) for key in range(trials)], np.uint64)
    orders = permuted(np.tile(np.arange(4), trials), 4, np.repeat(keys, 4)).reshape(trials, 4)
    counts = collections.Counter(map(tuple, orders.tolist()))
    assert len(counts) == 24
    # Six standard deviations around the expectation of a fair shuffle.
    assert max(abs(count - trials / 24) for count in counts.values()) < 6 * (trials / 24) ** 0.5
    long = np.array([shuffled(500, mix(key)) for key in range(100)])
    neighbours = np.abs(np.diff(long, axis=1)).mean()
    assert neighbours == pytest.approx(500 / 3, rel=0.02)


def test_every_position_of_one_call_has_its_own_key() -> None:
    together = permuted(np.array([3, 3, 4]), 10, np.array([1, 2, 1], np.uint64))
    assert together.tolist() == [shuffled(10, 1)[3], shuffled(10, 2)[3], shuffled(10, 1)[4]]


def test_a_large_shuffle_needs_no_memory() -> None:
    length = 10**12
    places = permuted(np.arange(1000), length, np.zeros(1000, np.uint64))
    assert places.max() < length
    assert len(set(places.tolist())) == 1000
    assert places.mean() == pytest.approx(length / 2, rel=0.1)


@pytest.mark.parametrize("weights", [(1,), (1, 1), (7, 2, 1), (0, 3, 0, 5), (1, 10**6)])
def test_a_mixture_counts_what_came_before(weights: tuple[int, ...]) -> None:
    phases = [mix(number) for number in range(len(weights))]
    counts = [0] * len(weights)
    for position in range(3000):
        part, before = split(position, weights, phases)
        assert before == counts[part]
        counts[part] += 1
        for weight, count in zip(weights, counts, strict=True):
            assert abs(count - (position + 1) * weight / sum(weights)) <= len(weights)


def test_words_of_any_size_are_mixed_in_order() -> None:
    assert mix(1, 2) != mix(2, 1)
    assert mix(2**64 - 1) != mix(0)
    assert 0 <= mix(10**30, -1) < 2**64


def test_a_mixture_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="positive sum"):
        split(0, (), ())
