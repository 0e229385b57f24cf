from __future__ import annotations

import pytest

from sd_jax.training.tables import aligned, bytes_text, count_text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (5.09 * 2**30, "5.09 GiB"),
        (9.996 * 2**20, "10.0 MiB"),
        (123.4 * 2**20, "123 MiB"),
        (2**40, "1024 GiB"),
    ],
)
def test_bytes_have_three_digits(count, text) -> None:
    assert bytes_text(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(999_999, "999,999"), (859_520_964, "860 million"), (1_365_755_204, "1.37 billion")],
)
def test_counts_have_three_digits(count, text) -> None:
    assert count_text(count) == text


def test_columns_are_aligned() -> None:
    assert aligned([["name", "size", ""], ["a", "12345", "x"], ["long name", "", ""]]) == (
        "name        size\na          12345  x\nlong name"
    )
