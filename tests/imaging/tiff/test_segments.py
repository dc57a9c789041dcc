"""Layouts count their segments as the pixels do, and the cache keeps to its size."""

from __future__ import annotations

import numpy as np
import pytest

from histofold.imaging.tiff.segments import SegmentCache, SegmentLayout


def layout(shape_hw: tuple[int, int], size_hw: tuple[int, int], is_tiled: bool) -> SegmentLayout:
    return SegmentLayout(shape_hw, size_hw, is_tiled, 3, np.dtype("<u2"), 8, 1, False)


@pytest.mark.parametrize("height", [1, 15, 16, 17, 100])
@pytest.mark.parametrize("rows", [1, 7, 16, 100])
def test_strips_partition_the_rows(height: int, rows: int) -> None:
    strips = layout((height, 33), (rows, 33), is_tiled=False)
    down, across = strips.down_across
    assert across == 1
    heights = [strips.rows_of(number) for number in range(down)]
    assert sum(heights) == height
    assert min(heights) >= 1
    assert [strips.rows_of(down + number) for number in range(down)] == heights, "the next plane has the same"
    assert strips.row_bytes == 33 * 3 * 2


@pytest.mark.parametrize("shape_hw", [(1, 1), (16, 32), (17, 31), (100, 333)])
def test_tiles_cover_the_page_in_full_size(shape_hw: tuple[int, int]) -> None:
    tiles = layout(shape_hw, (16, 32), is_tiled=True)
    down, across = tiles.down_across
    assert (down - 1) * 16 < shape_hw[0] <= down * 16
    assert (across - 1) * 32 < shape_hw[1] <= across * 32
    assert {tiles.rows_of(number) for number in range(down * across)} == {16}


def test_the_cache_forgets_the_least_recently_used() -> None:
    cache = SegmentCache(3 * 100)
    for key in range(3):
        cache.put(key, np.zeros(100, np.uint8), needed={key}, needed_bytes=100)
    assert cache.get(0) is not None
    cache.put(3, np.zeros(100, np.uint8), needed={3}, needed_bytes=100)
    assert [key in cache for key in range(4)] == [True, False, True, True]
    cache.clear()
    assert 0 not in cache
    assert cache.get(0) is None


@pytest.mark.parametrize("needed", [5, 36, 50])
def test_a_read_keeps_its_own_segments_up_to_twelve_times_the_capacity(needed: int) -> None:
    cache = SegmentCache(3 * 100)
    cache.put("older", np.zeros(100, np.uint8), needed={"older"}, needed_bytes=100)
    keys = set(range(needed))
    for key in range(needed):
        cache.put(key, np.zeros(100, np.uint8), keys, needed * 100)
    assert sum(key in cache for key in keys) == min(needed, 36)
    assert all(key in cache for key in range(min(needed, 36)))
    cache.put("later", np.zeros(100, np.uint8), {"later"}, 100)
    kept = [key for key in [*keys, "older", "later"] if key in cache]
    assert len(kept) <= 3
    assert "later" in kept


def test_a_segment_larger_than_the_cache_is_kept_alone() -> None:
    cache = SegmentCache(10)
    cache.put("large", np.zeros(100, np.uint8), {"large"}, 100)
    assert "large" in cache
    cache.put("next", np.zeros(100, np.uint8), {"next"}, 100)
    assert "large" not in cache
    assert "next" in cache
