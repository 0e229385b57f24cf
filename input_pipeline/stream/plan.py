"""Which records every batch of a run holds: a pure function of (sources, settings, seed, step).

A run is one sequence of global batches. Each belongs to one bucket (one size), buckets take turns
by their share of the examples, and inside a bucket the sources take turns by their weights. Every
pair of source and bucket is a queue of its own: shuffled epoch after shuffled epoch without a gap.
A batch may therefore span two epochs, and no record is ever left out of one.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from input_pipeline.stream.order import mix, permuted, split

if TYPE_CHECKING:
    from jaxtyping import Int

# What the seed is used for; equal words would tie choices to each other.
_BUCKET_PHASE, _SOURCE_PHASE, _SHUFFLE, _REPLACE = range(4)


class Row(NamedTuple):
    """One example of a run.

    Attributes:
      source: number of its source.
      index: of its record in the source.
      position: of the example in the whole run, from 0; its random choices depend on nothing else.
      bucket: number of its size.
    """

    source: int
    index: int
    position: int
    bucket: int


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """The order of a run; see the module's docstring. Made by `make_plan`.

    Attributes:
      batch_size: of the global batch.
      seed: of the run.
      shuffle: whether epochs are shuffled, or each in the order of the source.
      members: for each source and bucket, the records in it; None for all of the source.
      lengths: for each source and bucket, how many those are.
      shares: for each bucket and source, whole numbers in proportion to the examples they give.
    """

    batch_size: int
    seed: int
    shuffle: bool
    members: tuple[tuple[Int[np.ndarray, " n"] | None, ...], ...]
    lengths: tuple[tuple[int, ...], ...]
    shares: tuple[tuple[int, ...], ...]

    def bucket(self, step: int) -> int:
        """Returns the bucket of a step's batch."""
        return self._turn(step)[0]

    def rows(self, step: int, start: int = 0, stop: int | None = None) -> list[Row]:
        """Returns the examples of a step's batch.

        Args:
          step: at least 0.
          start: first row of the batch to return.
          stop: row behind the last; None for all that follow.
        """
        bucket, turn = self._turn(step)
        shares, phases = self.shares[bucket], self._source_phases[bucket]
        stop = self.batch_size if stop is None else stop
        queued = [split(turn * self.batch_size + row, shares, phases) for row in range(start, stop)]
        indices = self._records(bucket, queued)
        return [
            Row(source, index, step * self.batch_size + row, bucket)
            for row, (source, _), index in zip(range(start, stop), queued, indices, strict=True)
        ]

    def replacement(self, row: Row, attempt: int) -> Row:
        """Returns the same example with another record of its source and bucket.

        Args:
          row: whose record cannot be used.
          attempt: 1 for the first replacement, 2 for that of a bad replacement and so on.
        """
        length = self.lengths[row.source][row.bucket]
        place = mix(self.seed, _REPLACE, row.position, attempt) % length
        return row._replace(index=self._record(row.source, row.bucket, place))

    @property
    def steps_per_epoch(self) -> int:
        """The number of steps that hold as many examples as all sources have records."""
        return math.ceil(sum(map(sum, self.lengths)) / self.batch_size)

    @property
    def fingerprint(self) -> str:
        """A hash of all that the order follows from; a restored run should have the one it had."""
        digest = hashlib.sha256()
        numbers = (self.batch_size, self.seed, self.shuffle, self.lengths, self.shares)
        digest.update(repr(numbers).encode())
        for groups in self.members:
            for group in groups:
                digest.update(b"" if group is None else group.astype("<i8").tobytes())
        return digest.hexdigest()

    def _turn(self, step: int) -> tuple[int, int]:
        """Returns the bucket of a step, and how many batches it had before."""
        return split(step, self._bucket_shares, self._bucket_phases)

    def _records(self, bucket: int, queued: Sequence[tuple[int, int]]) -> list[int]:
        """Returns the records at places of the queues of sources in a bucket."""
        indices = np.empty(len(queued), np.int64)
        sources = np.array([source for source, _ in queued])
        for source in np.unique(sources).tolist():
            own = sources == source
            length = self.lengths[source][bucket]
            turns = [divmod(place, length) for number, place in queued if number == source]
            indices[own] = [place for _, place in turns]
            if self.shuffle:
                keys = [mix(self.seed, _SHUFFLE, source, bucket, epoch) for epoch, _ in turns]
                indices[own] = permuted(indices[own], length, np.array(keys, np.uint64))
        return [
            self._record(source, bucket, place)
            for source, place in zip(sources.tolist(), indices.tolist(), strict=True)
        ]

    def _record(self, source: int, bucket: int, place: int) -> int:
        members = self.members[source][bucket]
        return place if members is None else int(members[place])

    @functools.cached_property
    def _bucket_shares(self) -> tuple[int, ...]:
        return tuple(map(sum, self.shares))

    @functools.cached_property
    def _bucket_phases(self) -> tuple[int, ...]:
        return tuple(mix(self.seed, _BUCKET_PHASE, k) for k in range(len(self.shares)))

    @functools.cached_property
    def _source_phases(self) -> tuple[tuple[int, ...], ...]:
        return tuple(
            tuple(mix(self.seed, _SOURCE_PHASE, k, s) for s in range(len(sources)))
            for k, sources in enumerate(self.shares)
        )


def make_plan(
    lengths: Sequence[int],
    batch_size: int,
    *,
    seed: int = 0,
    weights: Sequence[float] | None = None,
    shuffle: bool = True,
    buckets: Sequence[Int[np.ndarray, " n"] | None] | None = None,
    num_buckets: int = 1,
) -> Plan:
    """Returns the order of a run.

    Args:
      lengths: of the sources, at least 1 each.
      batch_size: of the global batch.
      seed: of the run.
      weights: the shares of examples that come from each source, any scale, with a positive sum;
        None for shares in proportion to the lengths, as if the sources were one.
      shuffle: whether epochs are shuffled.
      buckets: for each source, the bucket of every record, or None if all are in the first; None
        if that holds for all sources.
      num_buckets: how many there are.
    """
    buckets = [None] * len(lengths) if buckets is None else buckets
    members: list[tuple[Int[np.ndarray, " n"] | None, ...]] = []
    counts: list[tuple[int, ...]] = []
    for length, bucket_of in zip(lengths, buckets, strict=True):
        if bucket_of is None:
            members.append((None,) * num_buckets)
            counts.append((length, *[0] * (num_buckets - 1)))
        else:
            groups = [np.flatnonzero(bucket_of == k) for k in range(num_buckets)]
            members.append(tuple(groups))
            counts.append(tuple(map(len, groups)))
    # Exact fractions, so that no rounding adds up over the steps of a run.
    shares = [Fraction(weight) for weight in (lengths if weights is None else weights)]
    table = [
        [
            share * count[bucket] / length
            for share, count, length in zip(shares, counts, lengths, strict=True)
        ]
        for bucket in range(num_buckets)
    ]
    scale = math.lcm(*(share.denominator for row in table for share in row))
    return Plan(
        batch_size=batch_size,
        seed=seed,
        shuffle=shuffle,
        members=tuple(members),
        lengths=tuple(counts),
        shares=tuple(tuple(int(share * scale) for share in row) for row in table),
    )
