"""The rule for how many rows of a batch run at a time."""

from __future__ import annotations

import pytest

from fusewright.core.slices import CACHE, rows_of_a_slice

MB = 1 << 20


def rows(count: int, per_row: int, threads: int = 1, weights: int = MB, flops: int = 10**9) -> int:
    return rows_of_a_slice(count, threads, lambda n: n * per_row, lambda: (flops, weights))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 16])
def test_what_stays_in_the_cache_runs_whole(count: int) -> None:
    assert rows(count, MB) == count


def test_slices_stay_in_the_cache() -> None:
    for count in range(17, 200):
        n = rows(count, MB)
        assert n >= 8 and n * MB <= CACHE * 4 / 3, (count, n)


def test_slices_are_of_one_size_where_one_is_near() -> None:
    assert rows(8, 5 * MB) == 2  # three fit: 3 + 3 + 2 would be two plans
    assert rows(64, 3 * MB) == 4 and rows(60, 3 * MB) == 5
    assert rows(8, 8 * MB, weights=60 * MB) == 4  # weights want three at least: the next size that divides
    assert rows(7, 5 * MB) == 3  # a prime has no such size


def test_every_thread_has_a_row() -> None:
    for threads in (1, 2, 4, 8):
        assert rows(64, 100 * MB, threads) == max(2, threads)
    assert rows(8, 100 * MB, 8) == 8 and rows(15, 100 * MB, 8) == 15


def test_weights_beyond_the_cache_are_not_read_for_little_work() -> None:
    few, many = 10**6, 10**12
    assert rows(64, 8 * MB, weights=100 * MB, flops=many) == 2
    assert rows(64, 8 * MB, weights=100 * MB, flops=few) == 64
    assert rows(64, 8 * MB, weights=8 * MB, flops=few) == 2  # these stay in the cache from slice to slice
    assert rows(64, 8 * MB, weights=100 * MB, flops=0) == 64
    least = 48 * 2 * 100 * MB // 10**9
    assert least <= rows(64, 8 * MB, 2, 100 * MB, 10**9) <= 2 * least + 2


def test_work_is_asked_for_only_where_it_matters() -> None:
    def never() -> tuple[int, int]:
        raise AssertionError

    assert rows_of_a_slice(8, 1, lambda n: n * MB, never) == 8
