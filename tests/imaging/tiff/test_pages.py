"""Which page is the image, and what its samples and colours mean, against tifffile and the stated rules."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile

from histofold.core.faults import ImageError
from histofold.imaging.slide import open_slide
from imaging.slide_files import check_regions, texture

FULL, HALF, SMALL = (101, 133), (51, 67), (20, 30)


def write_pages(path: Path, pages: list[tuple[np.ndarray, dict]], **options: object) -> None:
    with tifffile.TiffWriter(path, **options) as writer:
        for values, page_options in pages:
            writer.write(values, metadata=None, **page_options)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("is_big", [False, True])
def test_the_image_is_the_page_of_most_pixels_wherever_it_stands(
    tmp_path: Path, order: tuple[int, ...], is_big: bool
) -> None:
    levels = [texture(*FULL, 3), texture(*HALF, 3), texture(*SMALL, 3)]
    pages = [(levels[index], {"photometric": "rgb", "tile": (32, 32)}) for index in order]
    write_pages(tmp_path / "a.tif", pages, bigtiff=is_big)
    check_regions(tmp_path / "a.tif", levels[0])


def test_a_taller_label_of_fewer_pixels_is_left_aside(tmp_path: Path) -> None:
    image_HWC = texture(*FULL, 3)
    label = (texture(300, 5, 3), {"photometric": "rgb"})
    write_pages(tmp_path / "a.tif", [label, (image_HWC, {"photometric": "rgb", "compression": "zlib"})])
    check_regions(tmp_path / "a.tif", image_HWC)


def test_levels_in_sub_directories_are_left_aside(tmp_path: Path) -> None:
    image_HWC = texture(*FULL, 3)
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as writer:
        writer.write(image_HWC, photometric="rgb", tile=(32, 32), subifds=1)
        writer.write(np.ascontiguousarray(image_HWC[::2, ::2]), photometric="rgb", tile=(32, 32), subfiletype=1)
    check_regions(tmp_path / "a.ome.tif", image_HWC)


def test_a_transparency_mask_is_no_page_of_the_image(tmp_path: Path) -> None:
    image_HWC = texture(*FULL, 3)
    mask = (texture(*FULL), {"photometric": "minisblack", "subfiletype": 1})
    write_pages(tmp_path / "a.tif", [(image_HWC, {"photometric": "rgb"}), mask])
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tiff:
        tiff.pages[1].tags["NewSubfileType"].overwrite(4)
    check_regions(tmp_path / "a.tif", image_HWC)


def test_three_pages_among_levels(tmp_path: Path) -> None:
    planes_CHW = texture(3, *FULL)
    grey = {"photometric": "minisblack", "compression": "lzw"}
    pages = [(texture(*HALF), grey), *((plane_HW, grey) for plane_HW in planes_CHW), (texture(*SMALL), grey)]
    write_pages(tmp_path / "a.tif", pages)
    check_regions(tmp_path / "a.tif", planes_CHW.transpose(1, 2, 0))


@pytest.mark.parametrize("count", [2, 4, 5])
def test_other_numbers_of_pages_are_a_stack(tmp_path: Path, count: int) -> None:
    pages = [(texture(*SMALL), {"photometric": "minisblack"})] * count
    write_pages(tmp_path / "a.tif", pages)
    with pytest.raises(ImageError, match=f"{count} pages"):
        open_slide(tmp_path / "a.tif")


def test_three_pages_stored_differently_are_refused(tmp_path: Path) -> None:
    kinds = [{"compression": "lzw"}, {"compression": "lzw"}, {"compression": "zlib"}]
    pages = [(texture(*SMALL), {"photometric": "minisblack", **kind}) for kind in kinds]
    write_pages(tmp_path / "a.tif", pages)
    with pytest.raises(ImageError, match="different ways"):
        open_slide(tmp_path / "a.tif")


@pytest.mark.parametrize("shape", [(3, *FULL), (1, 3, *FULL), (1, 1, 3, *FULL)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "options",
    [
        {"photometric": "rgb", "planarconfig": "separate"},
        {"photometric": "rgb", "planarconfig": "separate", "tile": (32, 64), "compression": "zlib"},
        {"photometric": "minisblack", "rowsperstrip": 7},
        {"photometric": "minisblack", "truncate": True},
    ],
    ids=["planes", "tiled planes", "pages", "stacked"],
)
def test_colours_first(tmp_path: Path, shape: tuple[int, ...], dtype: type, order: str, options: dict) -> None:
    stored = texture(*shape, dtype=dtype)
    tifffile.imwrite(tmp_path / "a.tif", stored, byteorder=order, **options)
    peer_HWC = tifffile.imread(tmp_path / "a.tif").reshape(3, *FULL).transpose(1, 2, 0)
    check_regions(tmp_path / "a.tif", peer_HWC if dtype == np.uint8 else np.rint(peer_HWC / 257).astype(np.uint8))


@pytest.mark.parametrize("shape", [(1, *FULL, 3), (1, 1, *FULL, 3), (*FULL, 1), (1, *FULL)])
def test_colours_last_and_grey_of_any_rank(tmp_path: Path, shape: tuple[int, ...]) -> None:
    stored = texture(*shape)
    photometric = "rgb" if shape[-1] == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric=photometric)
    plain_HWS = stored.reshape(*FULL, -1)
    check_regions(tmp_path / "a.tif", np.broadcast_to(plain_HWS, (*FULL, 3)))


def test_imagej_stack_of_colours_under_one_page(tmp_path: Path) -> None:
    planes_CHW = texture(3, *FULL)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, planes_CHW, imagej=True)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        link = page.offset + 2 + 12 * len(page.tags)
        order, end = tiff.byteorder, tiff.series[0].dataoffset + planes_CHW.size
    content = bytearray(path.read_bytes())
    assert struct.unpack_from(f"{order}I", content, link)[0] > 0
    struct.pack_into(f"{order}I", content, link, 0)  # as ImageJ does beyond 4 GB: later pages have no directory
    path.write_bytes(content)
    check_regions(path, planes_CHW.transpose(1, 2, 0))
    for cut in (1, planes_CHW.size // 3, planes_CHW.size // 2):
        path.write_bytes(content[: end - cut])
        with pytest.raises(ImageError):
            open_slide(path)


@pytest.mark.parametrize("shape", [(2, *FULL), (4, *FULL), (3, 2, *FULL)])
def test_one_page_for_another_array_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", texture(*shape), photometric="minisblack", truncate=True)
    with pytest.raises(ImageError, match="one page stands for an array"):
        open_slide(tmp_path / "a.tif")


@pytest.mark.parametrize("codec", [{}, {"compression": "lzw", "predictor": 2}], ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_palette(tmp_path: Path, codec: dict, dtype: type) -> None:
    values = np.iinfo(dtype).max + 1
    palette_CL = texture(3, values, dtype=np.uint16)
    indices_HW = texture(*FULL, dtype=dtype)
    tifffile.imwrite(tmp_path / "a.tif", indices_HW, photometric="palette", colormap=palette_CL, **codec)
    expected_HWC = np.rint(palette_CL.T[indices_HW] / 257).astype(np.uint8)
    check_regions(tmp_path / "a.tif", expected_HWC)


def test_palette_of_8_bit_values(tmp_path: Path) -> None:
    palette_CL = texture(3, 256).astype(np.uint16)
    indices_HW = texture(*FULL)
    tifffile.imwrite(tmp_path / "a.tif", indices_HW, photometric="palette", colormap=palette_CL, tile=(32, 64))
    check_regions(tmp_path / "a.tif", palette_CL.T[indices_HW].astype(np.uint8))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("codec", [{}, {"compression": "zlib"}, {"compression": "lzw", "predictor": 2}], ids=str)
def test_32_bit_whole_numbers(tmp_path: Path, order: str, codec: dict) -> None:
    stored_HWC = texture(*FULL, 3, dtype=np.uint32)
    tifffile.imwrite(tmp_path / "a.tif", stored_HWC, photometric="rgb", byteorder=order, tile=(32, 64), **codec)
    check_regions(tmp_path / "a.tif", np.rint(stored_HWC / 16843009).astype(np.uint8))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("codec", [{}, {"compression": "zlib"}, {"compression": "lzw", "predictor": 3}], ids=str)
@pytest.mark.parametrize("geometry", [{"rowsperstrip": 16}, {"tile": (32, 64)}], ids=str)
def test_floats(tmp_path: Path, dtype: type, order: str, codec: dict, geometry: dict) -> None:
    if dtype == np.float16 and "predictor" in codec:
        codec = {"compression": "lzw"}  # tifffile writes no differences of half floats
    whole_HWC = texture(*FULL, 3)
    stored_HWC = (whole_HWC / 255).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", stored_HWC, photometric="rgb", byteorder=order, **codec, **geometry)
    check_regions(tmp_path / "a.tif", whole_HWC)


@pytest.mark.parametrize("codec", [{}, {"compression": "zlib"}], ids=str)
def test_floats_of_another_range_are_refused_when_read(tmp_path: Path, codec: dict) -> None:
    stored_HWC = np.zeros((40, 50, 3), np.float32)
    stored_HWC[30, 20] = 200
    tifffile.imwrite(tmp_path / "a.tif", stored_HWC, photometric="rgb", rowsperstrip=10, **codec)
    with open_slide(tmp_path / "a.tif") as slide:
        assert not slide.read(slice(0, 10), slice(0, 50)).any()
        with pytest.raises(ImageError, match="from 0 to 1, and here from 0 to 200") as caught:
            slide.read_all()
    assert caught.value.file == str(tmp_path / "a.tif")
    assert "scale" in caught.value.remedy


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
def test_signed_samples_are_refused(tmp_path: Path, dtype: type) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.ones((20, 30), dtype), photometric="minisblack")
    with pytest.raises(ImageError, match="signed samples"):
        open_slide(tmp_path / "a.tif")


@pytest.mark.parametrize("dtype", [np.uint64, np.int64, np.complex64, bool])
def test_other_samples_are_refused(tmp_path: Path, dtype: type) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.ones((20, 30), dtype), photometric="minisblack")
    with pytest.raises(ImageError, match="are not read"):
        open_slide(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_left_to_the_rows_as_stored(tmp_path: Path, orientation: int) -> None:
    image_HWC = texture(*FULL, 3)
    tags = [(274, 3, 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", image_HWC, photometric="rgb", compression="lzw", extratags=tags)
    check_regions(tmp_path / "a.tif", image_HWC)


@pytest.mark.parametrize("is_big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tile_larger_than_the_image(tmp_path: Path, is_big: bool, order: str) -> None:
    image_HWC = texture(*FULL, 3)
    options = {"photometric": "rgb", "bigtiff": is_big, "byteorder": order}
    for codec in ({}, {"compression": "lzw"}):
        tifffile.imwrite(tmp_path / "a.tif", image_HWC, tile=(160, 256), **options, **codec)
        check_regions(tmp_path / "a.tif", image_HWC)
