"""Scanners' and other formats: the slide and never a page beside it, its own scale, refusals with the remedy."""

import struct
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from histofold.competitions.folder import Folder
from histofold.core.faults import ImageError, InputError
from histofold.imaging.formats.door import open_format, use_formats
from histofold.imaging.formats.stated import stated_pixel_size_um
from histofold.imaging.slide import OTHER_FORMATS, open_slide

APERIO = "Aperio Image Library v11.2.1\r\n{} |AppMag = 20|MPP = 0.4990"


def smooth(shape_hw, seed=0):
    noise = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=(*shape_hw, 3)), (0, 0), 4)
    return np.clip(150 + 500 * noise, 0, 255).astype(np.uint8)


@pytest.fixture(autouse=True)
def formats():
    before = list(OTHER_FORMATS)
    OTHER_FORMATS.clear()
    use_formats()
    use_formats()
    assert [open_format] == OTHER_FORMATS
    yield
    OTHER_FORMATS[:] = before


def write_svs(path, image_HWC, compression=None):
    """A pyramid as Aperio's scanners write it, with a label and a macro page that have more pixels than the slide."""
    options = {"photometric": "rgb", "metadata": None, "compression": compression}
    size = f"{image_HWC.shape[1]}x{image_HWC.shape[0]}"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(image_HWC, tile=(64, 64), description=APERIO.format(size), **options)
        tiff.write(image_HWC[::4, ::4], description=APERIO.format(f"{size} -> thumbnail"), **options)
        tiff.write(image_HWC[::2, ::2], tile=(64, 64), description=APERIO.format(size), **options)
        for name, number in (("label", 1), ("macro", 9)):
            page = np.full((400, 500, 3), number, np.uint8)
            tiff.write(
                page, description=f"Aperio Image Library v11.2.1\r\n{name} 500x400", subfiletype=number, **options
            )


def test_an_svs_is_its_largest_level_and_neither_label_nor_macro(tmp_path):
    image_HWC = smooth((130, 210))
    write_svs(tmp_path / "a.svs", image_HWC)
    with open_slide(tmp_path / "a.svs") as slide:
        np.testing.assert_array_equal(slide.read_all(), image_HWC)
    assert stated_pixel_size_um(tmp_path / "a.svs") == pytest.approx(0.499)


def test_ours_and_openslide_read_the_same_svs(tmp_path):
    openslide = pytest.importorskip("openslide")
    from histofold.imaging.formats.vendor import VendorReader

    image_HWC = smooth((130, 210))
    write_svs(tmp_path / "a.svs", image_HWC, "jpeg")
    reader = VendorReader(tmp_path / "a.svs", openslide.OpenSlide(tmp_path / "a.svs"))
    theirs = np.zeros((60, 100, 3), np.uint8)
    reader.read_into(theirs, 50, 70)
    with open_slide(tmp_path / "a.svs") as slide:
        ours = slide.read(slice(50, 110), slice(70, 170))
    assert np.abs(ours.astype(int) - theirs).max() <= 3
    reader.close()


OME = (
    '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
    '<Image ID="Image:0"><Pixels DimensionOrder="XYCZT" ID="Pixels:0" '
    'PhysicalSizeX="{size}" PhysicalSizeXUnit="{unit}" '
    'PhysicalSizeY="{size}" PhysicalSizeYUnit="{unit}" SizeC="3" SizeT="1" SizeX="40" SizeY="30" SizeZ="1" '
    'Type="uint8"><Channel ID="Channel:0:0" SamplesPerPixel="3"/><TiffData/></Pixels></Image></OME>'
)


@pytest.mark.parametrize(("size", "unit", "expected"), [(0.25, "um", 0.25), (250, "nm", 0.25), (0.0005, "mm", 0.5)])
def test_an_ome_tiff_states_its_scale_and_its_id_has_no_ome(tmp_path, size, unit, expected):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    path = tmp_path / "images" / "a.ome.tif"
    text = OME.format(size=size, unit=unit)
    tifffile.imwrite(path, smooth((30, 40)), photometric="rgb", description=text, metadata=None)
    Image.fromarray(np.eye(30, 40, dtype=np.uint8) * 255).save(tmp_path / "masks" / "a.png")
    folder = Folder()
    (sample,) = folder.samples(tmp_path, "train")
    assert (sample.id, sample.pixel_size_um) == ("a", pytest.approx(expected))
    (notice,) = folder.notices
    assert f"that of their file: {expected} um (1 images)" in notice.rule
    assert folder.target(sample).area == 30


def test_the_table_counts_and_the_file_that_differs_is_a_notice(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for name, micrometres in (("same", 0.5), ("far", 0.25)):
        resolution = (10_000 / micrometres,) * 2
        image = smooth((30, 40))
        path = tmp_path / "images" / f"{name}.tif"
        tifffile.imwrite(path, image, photometric="rgb", resolution=resolution, resolutionunit="CENTIMETER")
        Image.fromarray(np.eye(30, 40, dtype=np.uint8) * 255).save(tmp_path / "masks" / f"{name}.png")
    (tmp_path / "images.csv").write_text("id,pixel_size\nsame,0.51\nfar,0.5\n")
    folder = Folder()
    assert {sample.id: sample.pixel_size_um for sample in folder.samples(tmp_path, "train")} == {
        "same": 0.51,
        "far": 0.5,
    }
    (notice,) = [notice for notice in folder.notices if "in the file" in notice.rule]
    assert notice.id == "far"
    assert "0.5 um in images.csv and 0.25 um in the file" in notice.rule


def png_with_density(path, across, unit):
    Image.fromarray(smooth((10, 12))).save(path)
    data = path.read_bytes()
    body = b"pHYs" + struct.pack(">IIB", across, across, unit)
    chunk = struct.pack(">I", 9) + body + struct.pack(">I", zlib.crc32(body))
    path.write_bytes(data[:33] + chunk + data[33:])


def test_dots_of_screens_and_printers_are_no_scale(tmp_path):
    path = tmp_path / "a.png"
    for across, unit, expected in ((2_000_000, 1, 0.5), (2835, 1, None), (11811, 1, None), (2_000_000, 0, None)):
        png_with_density(path, across, unit)
        assert stated_pixel_size_um(path) == expected
    for dots in (72, 96, 300, 1):
        tifffile.imwrite(tmp_path / "a.tif", smooth((10, 12)), photometric="rgb", resolution=(dots, dots))
        assert stated_pixel_size_um(tmp_path / "a.tif") is None
    Image.fromarray(smooth((10, 12))).save(tmp_path / "a.bmp", dpi=(96, 96))
    assert stated_pixel_size_um(tmp_path / "a.bmp") is None
    assert stated_pixel_size_um(tmp_path / "none.tif") is None
    (tmp_path / "b.png").write_bytes(b"\x89PNG")
    assert stated_pixel_size_um(tmp_path / "b.png") is None


def write_ndpi(path, image_HWC):
    """A slide as Hamamatsu's scanners write it, in little: the slide, and a larger macro picture of lens -1."""
    with tifffile.TiffWriter(path) as tiff:
        for part_HWC, lens in ((image_HWC, 20.0), (smooth((400, 500), 5), -1.0)):
            tags = [(65420, 4, 1, 1, True), (65421, 11, 1, lens, True), (65422, 9, 1, 0, True), (65423, 9, 1, 0, True)]
            tags += [(65424, 9, 1, 0, True), (271, 2, None, "Hamamatsu", True)]
            tiff.write(
                iter([cv2.imencode(".jpg", part_HWC[:, :, ::-1])[1].tobytes()]),
                shape=part_HWC.shape,
                dtype=np.uint8,
                photometric="ycbcr",
                compression="jpeg",
                metadata=None,
                rowsperstrip=len(part_HWC),
                resolution=(10_000 / 0.44, 10_000 / 0.44),
                resolutionunit="CENTIMETER",
                extratags=tags,
            )


def test_an_ndpi_is_read_by_openslide_with_its_own_scale(tmp_path):
    pytest.importorskip("openslide")
    image_HWC = smooth((160, 240))
    write_ndpi(tmp_path / "a.ndpi", image_HWC)
    with open_slide(tmp_path / "a.ndpi") as slide:
        assert slide.shape_hw == (160, 240)
        part_HWC = slide.read(slice(40, 100), slice(30, 170))
        assert np.abs(part_HWC.astype(int) - image_HWC[40:100, 30:170]).mean() < 4
        with pytest.raises(ValueError, match="stop"):
            slide.read(slice(0, 161), slice(0, 10))
    assert stated_pixel_size_um(tmp_path / "a.ndpi") == pytest.approx(0.44, rel=1e-3)


@pytest.mark.parametrize("suffix", [".ndpi", ".mrxs", ".scn"])
def test_without_openslide_the_extra_is_named(tmp_path, monkeypatch, suffix):
    monkeypatch.setitem(sys.modules, "openslide", None)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"anything")
    with pytest.raises(ImageError, match=r"OpenSlide, which is missing.*pip install -e '\.\[slides\]'"):
        open_slide(path)
    assert stated_pixel_size_um(path) is None


def test_what_openslide_does_not_read_is_said(tmp_path):
    pytest.importorskip("openslide")
    (tmp_path / "a.mrxs").write_bytes(b"\xff\xd8\xff" + bytes(99))
    with pytest.raises(ImageError, match=r"OpenSlide does not read it.*MRXS: its folder"):
        open_slide(tmp_path / "a.mrxs")


@pytest.mark.parametrize("suffix", [".vms", ".bif", ".czi", ".CZI"])
def test_formats_that_nobody_reads_are_refused_with_the_remedy(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_bytes(b"II*\0anything")
    with pytest.raises(ImageError, match=rf"{suffix.lower()} files are not read: .*OME-TIFF"):
        open_slide(tmp_path / f"a{suffix}")


def test_twelve_bits_are_scaled_by_what_the_file_states(tmp_path):
    values = np.random.default_rng(0).integers(0, 4096, (50, 70, 3), np.uint16)
    expected = np.rint(values / 4095 * 255)
    for number, compression in enumerate((None, "zlib")):
        path = tmp_path / f"{number}.tif"
        options = {"photometric": "rgb", "compression": compression, "rowsperstrip": 7}
        tifffile.imwrite(path, values, extratags=[(281, 3, 3, (3871, 4000, 4090), True)], **options)
        with open_slide(path) as slide:
            assert np.abs(slide.read_all() - expected).max() <= 1
            part_HWC = slide.read(slice(5, 9), slice(60, 70))
        assert np.abs(part_HWC - expected[5:9, 60:70]).max() <= 1, "a region means what the whole means"
        tifffile.imwrite(path, values, **options)
        with open_slide(path) as slide:
            assert slide.read_all().max() <= 16, "where nothing states it, the type's range counts"
    tifffile.imwrite(path, values, photometric="rgb", extratags=[(281, 3, 3, (900, 900, 900), True)])
    with open_slide(path) as slide, pytest.raises(ImageError, match="white is 1023"):
        slide.read_all()


def test_a_png_beyond_the_limit_of_one_piece_is_read_by_rows(tmp_path):
    image_HWC = smooth((90, 70))
    Image.fromarray(image_HWC).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png", max_segment_bytes=1000) as slide:
        assert type(slide._reader).__name__ == "PngRowsReader"
        np.testing.assert_array_equal(slide.read_all(), image_HWC)
    with pytest.raises(ImageError, match="more than 6,299"):
        open_slide(tmp_path / "a.png", max_pixels=90 * 70 - 1, max_segment_bytes=1000)


def test_the_limit_of_a_jpeg_is_an_option_that_the_refusal_names(tmp_path, monkeypatch):
    Image.fromarray(smooth((600, 700))).save(tmp_path / "a.jpg")
    monkeypatch.setenv("HISTOFOLD_IMAGE_MB", "1")
    with pytest.raises(ImageError, match=r"HISTOFOLD_IMAGE_MB=1000 histofold"):
        open_slide(tmp_path / "a.jpg")
    monkeypatch.setenv("HISTOFOLD_IMAGE_MB", "2")
    with open_slide(tmp_path / "a.jpg") as slide:
        assert slide.shape_hw == (600, 700)
    for text in ("0", "-3", "much"):
        monkeypatch.setenv("HISTOFOLD_IMAGE_MB", text)
        with pytest.raises(InputError, match="whole number of megabytes"):
            open_slide(tmp_path / "a.jpg")


def test_a_bitmap_is_told_by_its_first_bytes(tmp_path):
    image_HWC = smooth((30, 41))
    Image.fromarray(image_HWC).save(tmp_path / "a.bmp")
    Path(tmp_path / "a.bmp").rename(tmp_path / "a.tif")
    with open_slide(tmp_path / "a.tif") as slide:
        np.testing.assert_array_equal(slide.read(slice(3, 20), slice(5, 41)), image_HWC[3:20, 5:41])


def test_a_slide_whose_description_speaks_of_labels_is_still_the_slide(tmp_path):
    image_HWC = smooth((60, 80))
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(image_HWC, photometric="rgb", metadata=None, description="Macro photograph of a slide\nlabel: none")
        tiff.write(image_HWC[::2, ::2], photometric="rgb", metadata=None)
    with open_slide(tmp_path / "a.tif") as slide:
        np.testing.assert_array_equal(slide.read_all(), image_HWC)
