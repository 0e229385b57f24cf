from __future__ import annotations

import collections

import numpy as np
import pytest

from input_pipeline.stream.plan import Plan, Row, make_plan

LENGTHS = (30, 12)


def bucketed_plan(**settings: object) -> Plan:
    """Returns a plan of two sources in three buckets, one of which the second source lacks."""
    buckets = [np.arange(30) % 3, np.arange(12) % 2]
    arguments = {"weights": (3, 1), "seed": 5} | settings
    return make_plan(LENGTHS, 4, buckets=buckets, num_buckets=3, **arguments)


def test_every_record_comes_once_in_every_epoch_of_its_queue() -> None:
    plan = bucketed_plan()
    queues = collections.defaultdict(list)
    for step in range(150):
        for row in plan.rows(step):
            queues[row.source, row.bucket].append(row.index)
    assert set(queues) == {(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)}
    for (source, bucket), indices in queues.items():
        members = [i for i in range(LENGTHS[source]) if i % (3, 2)[source] == bucket]
        epochs = [
            indices[start : start + len(members)]
            for start in range(0, len(indices) - len(members) + 1, len(members))
        ]
        assert len(epochs) > 5
        assert all(sorted(epoch) == members for epoch in epochs)
        assert len(set(map(tuple, epochs))) > 1


def test_sources_and_buckets_get_their_shares() -> None:
    plan = bucketed_plan()
    rows = [row for step in range(600) for row in plan.rows(step)]
    by_source = collections.Counter(row.source for row in rows)
    assert by_source[0] / len(rows) == pytest.approx(0.75, abs=0.005)
    seen = collections.Counter((row.source, row.index) for row in rows)
    for source, share in ((0, 0.75), (1, 0.25)):
        expected = len(rows) * share / LENGTHS[source]
        counts = [seen[source, index] for index in range(LENGTHS[source])]
        assert min(counts) > 0.95 * expected
        assert max(counts) < 1.05 * expected


def test_without_weights_sources_count_by_their_length() -> None:
    plan = make_plan(LENGTHS, 7)
    rows = [row for step in range(plan.steps_per_epoch) for row in plan.rows(step)]
    assert plan.steps_per_epoch == 6
    assert sorted((row.source, row.index) for row in rows) == [
        *((0, i) for i in range(30)),
        *((1, i) for i in range(12)),
    ]


def test_a_batch_has_one_bucket_and_its_positions() -> None:
    plan = bucketed_plan()
    for step in range(20):
        rows = plan.rows(step)
        assert {row.bucket for row in rows} == {plan.bucket(step)}
        assert [row.position for row in rows] == list(range(4 * step, 4 * step + 4))
    assert {plan.bucket(step) for step in range(20)} == {0, 1, 2}


def test_parts_of_a_batch_are_parts_of_the_whole() -> None:
    plan = bucketed_plan()
    assert plan.rows(9, 0, 1) + plan.rows(9, 1, 3) + plan.rows(9, 3) == plan.rows(9)


def test_any_step_can_be_entered_first() -> None:
    forwards = bucketed_plan()
    expected = [forwards.rows(step) for step in range(50)]
    for step in (49, 7, 31):
        assert bucketed_plan().rows(step) == expected[step]


def test_seeds_give_other_orders() -> None:
    orders = {
        tuple(row[:2] for step in range(5) for row in bucketed_plan(seed=seed).rows(step))
        for seed in range(10)
    }
    assert len(orders) == 10


def test_without_shuffle_each_source_keeps_its_order() -> None:
    plan = make_plan((5, 3), 4, shuffle=False)
    rows = [row for step in range(4) for row in plan.rows(step)]
    assert [row.index for row in rows if row.source == 0] == [0, 1, 2, 3, 4] * 2
    assert [row.index for row in rows if row.source == 1] == [0, 1, 2] * 2


def test_a_replacement_is_of_the_same_source_and_bucket() -> None:
    plan = bucketed_plan()
    row = plan.rows(3)[2]
    others = [plan.replacement(row, attempt) for attempt in range(1, 40)]
    assert all(other[2:] == row[2:] and other.source == row.source for other in others)
    assert len({other.index for other in others}) > 3
    assert all(other.index % (3, 2)[row.source] == row.bucket for other in others)
    assert plan.replacement(row, 3) == bucketed_plan().replacement(row, 3)


def test_a_fingerprint_tells_orders_apart() -> None:
    buckets = [np.arange(30) % 3, np.arange(12) % 2]
    others = [
        bucketed_plan(seed=6),
        bucketed_plan(weights=(2, 1)),
        bucketed_plan(shuffle=False),
        make_plan(LENGTHS, 4, seed=5, weights=(3, 1)),
        make_plan((30, 13), 4, seed=5, weights=(3, 1)),
        make_plan(LENGTHS, 8, seed=5, weights=(3, 1)),
        make_plan(
            LENGTHS,
            4,
            seed=5,
            weights=(3, 1),
            buckets=[buckets[0][::-1], buckets[1]],
            num_buckets=3,
        ),
    ]
    fingerprints = {plan.fingerprint for plan in (bucketed_plan(), *others)}
    assert len(fingerprints) == 1 + len(others)
    assert bucketed_plan().fingerprint == bucketed_plan().fingerprint


def test_the_order_of_a_run_is_the_same_in_all_versions() -> None:
    # A run that is restored under a later version must go on where it was.
    plan = bucketed_plan()
    assert [row.index for row in plan.rows(0)] == [18, 10, 6, 12]
    assert [row.index for row in plan.rows(10**9)] == [15, 10, 9, 27]
    assert plan.rows(10**9)[0] == Row(source=0, index=15, position=4 * 10**9, bucket=0)
