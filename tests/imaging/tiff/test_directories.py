"""The chain of a TIFF's directories: honest ones pass, and what loops or leaves the file is refused."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile

from histofold.core.faults import ImageError
from histofold.imaging.tiff.directories import TIFF_MOST_PAGES, check_tiff_chain
from imaging.slide_files import texture, tiny_tiff


def links(content: bytes, order: str, is_big: bool) -> list[int]:
    """Where each page's link to the next one stands; a reading of its own, beside the one under test."""
    where, form, count_form, tag_bytes = (8, "Q", "Q", 20) if is_big else (4, "I", "H", 12)
    places = []
    while True:
        places.append(where)
        (position,) = struct.unpack_from(order + form, content, where)
        if position == 0:
            return places
        (tags,) = struct.unpack_from(order + count_form, content, position)
        where = position + struct.calcsize(order + count_form) + tags * tag_bytes


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("is_big", [False, True])
def test_loops_and_cuts(tmp_path: Path, order: str, is_big: bool) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, byteorder=order, bigtiff=is_big) as writer:
        for _ in range(3):
            writer.write(texture(9, 7), photometric="minisblack", metadata=None)
    content = path.read_bytes()
    check_tiff_chain(path)
    places = links(content, order, is_big)
    assert len(places) == 4
    form = order + ("Q" if is_big else "I")
    second = struct.unpack_from(form, content, places[1])[0]
    for target, words in ((second, "loop"), (len(content), "truncated"), (len(content) - 3, "truncated|claims")):
        damaged = bytearray(content)
        struct.pack_into(form, damaged, places[3], target)
        path.write_bytes(damaged)
        with pytest.raises(ImageError, match=words) as caught:
            check_tiff_chain(path)
        assert caught.value.file == str(path)
        assert caught.value.remedy


def test_values_beyond_the_file_are_refused_for_every_tag(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiny_tiff(1, (10, 10), bytes(300)))
    check_tiff_chain(path)
    content = path.read_bytes()
    for index in range(9):
        damaged = bytearray(content)
        struct.pack_into("<I", damaged, 10 + 12 * index + 4, 2**31)
        path.write_bytes(damaged)
        with pytest.raises(ImageError, match="truncated: tag"):
            check_tiff_chain(path)


def test_no_tags_and_very_many(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    for tags in (0, 60_000):
        path.write_bytes(struct.pack("<2sHIH", b"II", 42, 8, tags) + bytes(2000))
        with pytest.raises(ImageError, match=f"claims {tags} tags"):
            check_tiff_chain(path)


def test_stacks_longer_than_any_pyramid_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    for pages in (TIFF_MOST_PAGES, TIFF_MOST_PAGES + 1):
        tifffile.imwrite(path, np.zeros((pages, 3, 4), np.uint8), photometric="minisblack", metadata=None)
        if pages == TIFF_MOST_PAGES:
            check_tiff_chain(path)
        else:
            with pytest.raises(ImageError, match="more than 64 pages"):
                check_tiff_chain(path)
