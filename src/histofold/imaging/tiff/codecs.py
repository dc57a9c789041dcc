"""Decoding one strip or tile of a TIFF, with imagecodecs or without it.

Where imagecodecs is installed, tifffile's decoder of the page does the work. Where it is not (Kaggle's image), each
segment is still decoded on its own, so that memory stays flat and the header's facts stay ours:

- deflate by the standard library, bounded by the segment's declared size;
- LZW, PackBits, LZMA and zstd by the libtiff inside Pillow: the segment is handed over as a grey strip of the same
  bytes, and the predictor is undone here. Any sample layout works alike, and Pillow raises where the data is broken;
- JPEG by Pillow: the shared tables are spliced in front, and an Adobe marker says which colours are stored;
- JPEG 2000 by the OpenJPEG inside Pillow, 8 bits only.

JPEG carries no checksum: damage that leaves a segment's markers whole changes pixels, and no decoder tells.
"""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import tifffile
from PIL import Image, features
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from histofold.imaging.tiff.segments import (
    TIFF_APERIO_YCBCR,
    TIFF_DEFLATE,
    TIFF_JPEG,
    TIFF_JPEG2000,
    TIFF_NONE,
    TIFF_OLD_DEFLATE,
    SegmentDecoder,
    SegmentLayout,
)


def segment_decoder(page: tifffile.TiffPage, layout: SegmentLayout) -> SegmentDecoder:
    """The decoder of a page's segments; it raises ValueError, OSError or a codec's own error on broken data."""
    tables = page.jpegtables
    by_imagecodecs = has_imagecodecs()
    theirs = _tifffile_segment_decoder(page) if by_imagecodecs else None

    def decode_jpeg(data: bytes, number: int) -> np.ndarray:
        _check_jpeg_segment(data, layout)
        return theirs(data, number) if theirs else _pillow_jpeg_segment(data, tables, layout)

    def decode_jpeg2000(data: bytes, number: int) -> np.ndarray:
        return _jpeg2000_segment(data, layout, by_imagecodecs)

    def decode_packed(data: bytes, number: int) -> np.ndarray:
        return _packed_segment(data, number, layout)

    def decode_deflate(data: bytes, number: int) -> np.ndarray:
        try:
            return theirs(data, number) if theirs else decode_packed(data, number)
        except Exception:  # libdeflate refuses a last strip that was padded to full height; zlib tells it from damage
            return decode_packed(data, number)

    if layout.compression == TIFF_JPEG:
        return decode_jpeg
    if layout.compression in TIFF_JPEG2000:
        return decode_jpeg2000
    if layout.compression in (TIFF_DEFLATE, TIFF_OLD_DEFLATE):
        return decode_deflate
    return theirs or decode_packed


def has_imagecodecs() -> bool:
    """Whether imagecodecs is installed, with all codecs that are wanted of it."""
    try:
        import imagecodecs
    except ImportError:
        return False
    wanted = ("LZW", "JPEG8", "DEFLATE", "JPEG2K", "LZMA", "ZSTD", "DELTA", "FLOATPRED", "PACKBITS")
    return all(getattr(getattr(imagecodecs, name, None), "available", False) for name in wanted)


def has_pillow_codec(name: str) -> bool:
    """Whether Pillow was built with "libtiff" or "jpg_2000"."""
    return bool(features.check(name))


def _tifffile_segment_decoder(page: tifffile.TiffPage) -> SegmentDecoder:
    """tifffile's decoder of a page, resolved once; it needs the open file no more."""
    decode, tables = page.decode, page.jpegtables

    def decode_segment(data: bytes, number: int) -> np.ndarray:
        samples_HWS: np.ndarray = decode(data, number, jpegtables=tables)[0][0]
        return samples_HWS

    return decode_segment


def _packed_segment(data: bytes, number: int, layout: SegmentLayout) -> np.ndarray:
    """A losslessly packed segment as samples (h, w, S): unpacked by zlib or libtiff, un-predicted here."""
    rows = layout.rows_of(number)
    size = rows * layout.row_bytes
    if layout.compression in (TIFF_DEFLATE, TIFF_OLD_DEFLATE):
        data = inflate_bounded(data, layout.size_hw[0] * layout.row_bytes)
    elif layout.compression != TIFF_NONE:
        data = _libtiff_bytes(data, layout.compression, layout.row_bytes, rows)
    if len(data) < size:
        raise ValueError(f"its data end after {len(data)} of {size} bytes")
    shape_HWS = (rows, layout.size_hw[1], layout.samples_per_pixel)
    if layout.predictor == 3:
        return _undo_float_differences(np.frombuffer(data, np.uint8, size), shape_HWS, layout.dtype.itemsize)
    stored = np.frombuffer(data, layout.dtype, size // layout.dtype.itemsize)
    samples_HWS = stored.reshape(shape_HWS).astype(layout.dtype.newbyteorder("="))
    # Differences wrap around, as the type's own sum does.
    return np.cumsum(samples_HWS, axis=1, dtype=samples_HWS.dtype) if layout.predictor == 2 else samples_HWS


def _undo_float_differences(bytes_B: np.ndarray, shape_HWS: tuple[int, int, int], item_bytes: int) -> np.ndarray:
    """Predictor 3: each row holds the first bytes of all samples, then the second ones, and their differences.

    Adobe Photoshop TIFF Technical Note 3 (2005): the most significant byte comes first whatever the file's byte order.
    """
    rows, width, samples = shape_HWS
    sums = np.cumsum(bytes_B.reshape(rows, item_bytes * width, samples), axis=1, dtype=np.uint8)
    bytes_HVB = sums.reshape(rows, item_bytes, width * samples).swapaxes(1, 2)
    return np.ascontiguousarray(bytes_HVB).view(f">f{item_bytes}").reshape(shape_HWS).astype(f"=f{item_bytes}")


def inflate_bounded(data: bytes, limit: int) -> bytes:
    """Decompress a zlib stream of at most `limit` bytes, its checksum verified.

    Raises:
        ValueError: If the stream is damaged, cut short, or longer than the limit.
    """
    stream = zlib.decompressobj()
    try:
        inflated = stream.decompress(data, limit + 1)
    except zlib.error as error:
        raise ValueError(f"its deflate stream is damaged ({error})") from error
    if len(inflated) > limit:
        raise ValueError(f"its deflate stream is longer than the {limit} bytes of a segment")
    if not stream.eof:
        raise ValueError("its deflate stream is cut short")
    return inflated


def _libtiff_bytes(data: bytes, compression: int, row_bytes: int, rows: int) -> bytes:
    """Unpack a lossless codec with Pillow's libtiff, by wrapping the data as a grey image of one strip."""
    tags = {256: row_bytes, 257: rows, 258: 8, 259: compression, 262: 1, 273: 0, 277: 1, 278: rows, 279: len(data)}
    tags[273] = 8 + 2 + 12 * len(tags) + 4  # the strip follows the header, the directory and its end
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    header = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + directory + bytes(4)
    with TiffImageFile(io.BytesIO(header + data)) as image:
        return image.tobytes()


def _check_jpeg_segment(data: bytes, layout: SegmentLayout) -> None:
    """Refuse what libjpeg would fill with grey (no end) or would allocate for (a frame larger than the segment)."""
    height, width, components = jpeg_frame(data)
    if height > layout.size_hw[0] or width > layout.size_hw[1] or components != layout.samples_per_pixel:
        stored = (*layout.size_hw, layout.samples_per_pixel)
        raise ValueError(f"its JPEG frame is {(height, width, components)} where the TIFF header says {stored}")
    if data.rfind(b"\xff\xd9") < data.find(b"\xff\xda"):
        raise ValueError("its JPEG data are cut short")


def jpeg_frame(data: bytes) -> tuple[int, int, int]:
    """Height, width and components that the frame header of a JPEG states.

    Raises:
        ValueError: If there is no frame header before the image data.
    """
    position = 2 if data[:2] == b"\xff\xd8" else len(data)
    while position + 10 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return struct.unpack(">HHB", data[position + 5 : position + 10])
        elif marker in (0xD9, 0xDA):
            break
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    raise ValueError("its JPEG data have no frame header")


def _pillow_jpeg_segment(data: bytes, tables: bytes | None, layout: SegmentLayout) -> np.ndarray:
    """A JPEG segment decoded by Pillow, its shared tables and its colour space spliced in front."""
    adobe = struct.pack(">2sH5sHHHB", b"\xff\xee", 14, b"Adobe", 100, 0, 0, int(layout.is_ycbcr))
    shared = tables[2:-2] if tables else b""
    stream = data[:2] + (adobe if layout.samples_per_pixel == 3 else b"") + shared + data[2:]
    with JpegImageFile(io.BytesIO(stream)) as image:
        samples = np.asarray(image)
    return samples[:, :, np.newaxis] if samples.ndim == 2 else samples


def _jpeg2000_segment(data: bytes, layout: SegmentLayout, by_imagecodecs: bool) -> np.ndarray:
    """A JPEG 2000 segment as samples (h, w, S); Aperio's YCbCr (33003) is turned into RGB.

    Colours stored at half size are left to Pillow, which brings them to full size and to RGB in one.
    """
    start = data.find(b"\xff\x4f\xff\x51")  # the codestream itself, without the boxes of a JP2 file
    if start < 0:
        raise ValueError("its JPEG 2000 data have no header")
    codestream = data[start:]
    has_halved_colours = _check_jpeg2000_frame(codestream, layout)
    is_ycbcr = layout.compression == TIFF_APERIO_YCBCR and layout.samples_per_pixel == 3
    if has_halved_colours and not is_ycbcr:
        raise ValueError("its JPEG 2000 colours are stored at different sizes")
    if by_imagecodecs and not has_halved_colours:
        import imagecodecs

        samples = imagecodecs.jpeg2k_decode(codestream)
    else:
        with Jpeg2KImageFile(io.BytesIO(codestream)) as image:
            samples = np.asarray(image)
    samples_HWS: np.ndarray = samples[:, :, np.newaxis] if samples.ndim == 2 else samples
    if not is_ycbcr or has_halved_colours:
        return samples_HWS
    height, width, _ = samples_HWS.shape
    stored = Image.frombytes("YCbCr", (width, height), samples_HWS.tobytes())
    return np.asarray(stored.convert("RGB"))


def _check_jpeg2000_frame(codestream: bytes, layout: SegmentLayout) -> bool:
    """Hold the SIZ marker of a codestream to the header of the TIFF; whether its colours are stored at half size.

    The fields are those of ITU-T T.800, A.5.1.

    Raises:
        ValueError: If size, number or depth of the components differ.
    """
    try:
        right, bottom, left, top = struct.unpack_from(">4I", codestream, 8)
        (components,) = struct.unpack_from(">H", codestream, 40)
        parts = [struct.unpack_from(">3B", codestream, 42 + 3 * index) for index in range(min(components, 5))]
    except struct.error:
        raise ValueError("its JPEG 2000 header is cut short") from None
    frame = (bottom - top, right - left, components)
    height, width = layout.size_hw
    if not (0 < frame[0] <= height and 0 < frame[1] <= width and components == layout.samples_per_pixel):
        raise ValueError(
            f"its JPEG 2000 frame is {frame} where the TIFF header says {(height, width, layout.samples_per_pixel)}"
        )
    depths = {depth for depth, _, _ in parts}
    if depths != {8 * layout.dtype.itemsize - 1}:
        raise ValueError(f"its JPEG 2000 samples are not of {8 * layout.dtype.itemsize} bits, unsigned")
    return {(across, down) for _, across, down in parts} != {(1, 1)}
