"""Other readers for a TIFF whose codec our own decoding does not cover: rasterio, then OpenCV for plain 8-bit RGB only.

The header has been read and held against the file before any of them is asked, and what they give is held against the
header. rasterio reads by regions, with GDAL's cache bounded and files beside the image left alone. OpenCV decodes the
whole image, gives wrong pixels of what it does not know without a word, and turns a TIFF by its orientation whatever it
is told: it is asked only for codecs of which it is known that it has them, 8-bit RGB, in the first page, not turned,
within the limit of memory.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np

from histofold.core.faults import ImageError, image_fault
from histofold.imaging.samples import SampleRangeError, paste_rgb
from histofold.imaging.tiff.directories import TIFF_COPY_AGAIN
from histofold.imaging.tiff.header import TiffImage
from histofold.imaging.tiff.pages import TIFF_RGB
from histofold.imaging.tiff.segments import TIFF_DEFLATE, TIFF_LZW, TIFF_NONE, TIFF_OLD_DEFLATE, TIFF_PACKBITS

_GDAL_CACHE_BYTES = 64 << 20  # GDAL's own default is 5 % of the machine's memory
_OPENCV_COMPRESSIONS = {TIFF_NONE, TIFF_LZW, TIFF_DEFLATE, TIFF_OLD_DEFLATE, TIFF_PACKBITS}


class RasterioReader:
    """A TIFF read by rasterio; see `histofold.imaging.slide.SlideReader`.

    Raises:
        ImageError: If rasterio sees another image than the header describes.
        Exception: Rasterio's own, if it does not open the file.
    """

    def __init__(self, rasterio: ModuleType, path: Path, image: TiffImage) -> None:
        self.shape_hw = image.layout.shape_hw
        self._path = path
        self._image = image
        self._rasterio = rasterio
        self._datasets: list[Any] = []
        with self._environment(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the image has no place on the earth
            for number in image.page_numbers:
                name = f"GTIFF_DIR:{number + 1}:{os.fspath(path)}"
                self._datasets.append(rasterio.open(name, driver="GTiff"))
        self._bands = list(range(1, image.colours + 1)) if len(self._datasets) == 1 else [1]
        for dataset in self._datasets:
            self._check_dataset(dataset)

    def read_into(self, canvas_HWC: np.ndarray, y: int, x: int) -> None:
        """Fill the canvas with the region at (y, x)."""
        height, width = canvas_HWC.shape[:2]
        region = ((y, y + height), (x, x + width))
        try:
            with self._environment():
                parts_CHW = [dataset.read(self._bands, window=region) for dataset in self._datasets]
            samples_HWS = np.moveaxis(np.concatenate(parts_CHW), 0, -1)
            paste_rgb(canvas_HWC, samples_HWS, self._image.inverted, self._image.palette)
        except SampleRangeError as error:
            raise image_fault(self._path, str(error), "scale the samples to 0 to 1") from None
        except Exception as error:  # rasterio's own and GDAL's
            rule = f"rasterio cannot decode region y={y}, x={x} ({error})"
            raise image_fault(self._path, rule, TIFF_COPY_AGAIN) from error

    def close(self) -> None:
        """Close the file."""
        for dataset in self._datasets:
            dataset.close()
        self._datasets = []

    def _environment(self) -> Any:
        """GDAL's settings while it works for us."""
        return self._rasterio.Env(GDAL_CACHEMAX=_GDAL_CACHE_BYTES, GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR")

    def _check_dataset(self, dataset: Any) -> None:
        """Hold what rasterio sees to what the header says."""
        layout = self._image.layout
        seen = (dataset.height, dataset.width, dataset.dtypes[0])
        wanted = (*layout.shape_hw, layout.dtype.name)
        if seen != wanted or dataset.count < len(self._bands):
            self.close()
            rule = f"rasterio sees {seen} with {dataset.count} bands where the header says {wanted}"
            raise image_fault(self._path, rule, TIFF_COPY_AGAIN)


class OpenCvReader:
    """A plain 8-bit RGB TIFF decoded whole by OpenCV; see `histofold.imaging.slide.SlideReader`."""

    def __init__(self, path: Path, image: TiffImage) -> None:
        self.shape_hw = image.layout.shape_hw
        self._path = path
        self._image_HWC: np.ndarray | None = None

    def read_into(self, canvas_HWC: np.ndarray, y: int, x: int) -> None:
        """Fill the canvas with the region at (y, x)."""
        if self._image_HWC is None:
            self._image_HWC = self._decode_whole()
        height, width = canvas_HWC.shape[:2]
        canvas_HWC[...] = self._image_HWC[y : y + height, x : x + width, ::-1]  # OpenCV's order is BGR

    def close(self) -> None:
        """Drop the decoded image."""
        self._image_HWC = None

    def _decode_whole(self) -> np.ndarray:
        try:
            image_HWC = cv2.imread(os.fspath(self._path), cv2.IMREAD_COLOR)
        except cv2.error as error:
            raise image_fault(self._path, f"OpenCV cannot decode it ({error.err})", TIFF_COPY_AGAIN) from error
        if image_HWC is None or image_HWC.shape != (*self.shape_hw, 3):
            shape = None if image_HWC is None else image_HWC.shape
            raise image_fault(self._path, f"OpenCV decodes it to shape {shape}", TIFF_COPY_AGAIN)
        return image_HWC


ForeignReader = RasterioReader | OpenCvReader
"""Readers that are not our own."""


def open_foreign_tiff(path: Path, image: TiffImage, max_bytes: int) -> ForeignReader:
    """The first other reader that can read a TIFF whose header has been checked; OpenCV only up to `max_bytes`.

    Raises:
        ImageError: If none can; the text names what each lacks.
    """
    why_not = "rasterio is not installed"
    rasterio = _import_rasterio()
    if rasterio is not None:
        try:
            return RasterioReader(rasterio, path, image)
        except ImageError:
            raise
        except Exception as error:  # rasterio's own and GDAL's, such as a codec that it was built without
            why_not = f"rasterio cannot either ({error})"
    cannot = _opencv_obstacle(image, max_bytes)
    if not cannot:
        return OpenCvReader(path, image)
    rule = f"{image.foreign} is not decoded here, {why_not}, and OpenCV is not asked for {cannot}"
    raise image_fault(path, rule, "install a rasterio that has the codec, or save it as a tiled TIFF with deflate")


def _import_rasterio() -> ModuleType | None:
    """Rasterio, if it is installed and works."""
    try:
        import rasterio
    except Exception:  # a broken GDAL raises more than ImportError
        return None
    return rasterio


def _opencv_obstacle(image: TiffImage, max_bytes: int) -> str:
    """Why OpenCV may not be asked for an image; empty if it may."""
    layout = image.layout
    if layout.compression not in _OPENCV_COMPRESSIONS:
        return "a codec that it may lack"
    is_plain_rgb = layout.dtype == np.uint8 and image.photometric == TIFF_RGB and layout.samples_per_pixel == 3
    if not is_plain_rgb or image.page_numbers != (0,):
        return "anything but plain 8-bit RGB in the first page"
    if image.is_turned:
        return "an image with an orientation"
    if layout.shape_hw[0] * layout.shape_hw[1] * 3 > max_bytes:
        return f"an image of more than {max_bytes:,} bytes"
    return ""
