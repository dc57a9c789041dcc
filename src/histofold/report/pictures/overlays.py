"""Pictures of masks over tissue: truth against prediction, contact sheets, and their files."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from histofold.schema.files import write_bytes_atomically

# Blue against yellow survives every common colour blindness, and neither occurs in H&E, PAS or DAB tissue.
TRUTH_RGB = (0, 229, 255)
PREDICTION_RGB = (255, 205, 0)
MISSED_RGB = (0, 98, 255)
FALSE_RGB = (255, 72, 0)
_CASING_RGB = (24, 24, 32)

_ERROR_OPACITY = 0.38
_LINE_PX_PER_SIDE = 1 / 360
_SHIFT_BITS = 4
_INK_RGB = (40, 44, 52)
_PAPER = 255
_TITLE_LINES = 3


def draw_overlay(
    image_HWC: np.ndarray, truth_HW: np.ndarray | None, prediction_HW: np.ndarray | None, max_side: int = 900
) -> np.ndarray:
    """Draw the contours of truth and prediction over an image, with their differences lightly tinted.

    The image shrinks by area averaging; contours are found at full size and then scaled, so that even an object of one
    pixel stays visible. An image that is small enough keeps its size.

    Args:
        image_HWC: RGB image, uint8, (H, W, 3).
        truth_HW: Mask, (H, W), non-zero = inside; None = not known.
        prediction_HW: Mask, (H, W); None = none made.
        max_side: Longer side of the picture in pixels, at most.

    Returns:
        RGB picture, uint8, (h, w, 3) with max(h, w) <= max_side; never the caller's own memory.

    Raises:
        ValueError: If the image is not RGB uint8, a mask has another size, or max_side is not positive.
    """
    _require_rgb(image_HWC)
    if max_side < 1:
        raise ValueError(f"max_side={max_side} px must be at least 1")
    truth_HW = _as_mask("truth", truth_HW, image_HWC)
    prediction_HW = _as_mask("prediction", prediction_HW, image_HWC)
    scale = min(1.0, max_side / max(image_HWC.shape[:2]))
    picture_HWC = _shrink(image_HWC, scale)
    if truth_HW is not None and prediction_HW is not None:
        _tint(picture_HWC, truth_HW & ~prediction_HW, MISSED_RGB)
        _tint(picture_HWC, prediction_HW & ~truth_HW, FALSE_RGB)
    _draw_contours(picture_HWC, truth_HW, prediction_HW)
    return picture_HWC


def draw_rings(
    picture_HWC: np.ndarray,
    rings: Iterable[np.ndarray],
    shape_hw: tuple[int, int],
    colour: tuple[int, int, int],
    line_px: int | None = None,
) -> None:
    """Draw outlines over a picture of an image, in place.

    Args:
        picture_HWC: RGB picture, uint8, (h, w, 3).
        rings: Each (P, 2): x and y of its corners in pixels of the image, whose first pixel covers 0 to 1.
        shape_hw: Height and width of the image.
        colour: RGB of the lines.
        line_px: How broad they are; None: as large as fits the picture.
    """
    line_px = line_px or max(1, round(max(picture_HWC.shape[:2]) * _LINE_PX_PER_SIDE))
    scale_xy = np.array([picture_HWC.shape[1] / shape_hw[1], picture_HWC.shape[0] / shape_hw[0]])
    last_xy = np.array([picture_HWC.shape[1] - 1, picture_HWC.shape[0] - 1])
    placed = (np.clip(ring_P2[:, None] * scale_xy - 0.5, 0, last_xy) for ring_P2 in rings)
    contours = [_merge_repeats(np.rint(points * (1 << _SHIFT_BITS)).astype(np.int32)) for points in placed]
    if line_px > 1:  # as in `_draw_contours`
        _stroke(picture_HWC, contours, _CASING_RGB, line_px + 2)
    _stroke(picture_HWC, contours, colour, line_px)


def contact_sheet(images: Sequence[np.ndarray], titles: Sequence[str], columns: int, cell: int) -> np.ndarray:
    """Put images with titles on one white sheet.

    Args:
        images: RGB images, uint8, (H, W, 3) each, of any sizes; each is fitted into its cell, proportions kept,
            and a row is as high as its highest image.
        titles: One title an image; what is too long for its cell goes on in further lines, and ends in an ellipsis.
        columns: Images in a row, at most.
        cell: Side of a cell in pixels.

    Returns:
        RGB sheet, uint8, (h, w, 3), white where nothing is.

    Raises:
        ValueError: If there are no images, another number of titles, an image is not RGB uint8, or a size is too small.
    """
    if not images or len(images) != len(titles):
        raise ValueError(f"{len(images)} images and {len(titles)} titles: pass at least one image and one title each")
    if columns < 1 or cell < 16:
        raise ValueError(f"columns={columns} must be at least 1 and cell={cell} px at least 16")
    for image_HWC in images:
        _require_rgb(image_HWC)
    columns = min(columns, len(images))
    font_px = max(10, round(cell / 18))
    gap, line_height, font = max(4, cell // 24), round(1.3 * font_px), _font(font_px)
    fitted = [_fit_cell(image_HWC, cell) for image_HWC in images]
    wrapped = [_wrap_text(title, font, cell) for title in titles]
    rows = [range(first, min(first + columns, len(fitted))) for first in range(0, len(fitted), columns)]
    title_heights = [
        round(0.4 * font_px) + line_height * max(len(wrapped[position]) for position in row) for row in rows
    ]
    heights = [max(fitted[position].shape[0] for position in row) + gap for row in rows]
    sheet_hw = sum(title_heights) + sum(heights) + gap, columns * (cell + gap) + gap
    sheet = Image.new("RGB", sheet_hw[::-1], (_PAPER,) * 3)
    pen = ImageDraw.Draw(sheet)
    y = gap
    for row, title_height, height in zip(rows, title_heights, heights, strict=True):
        for column, position in enumerate(row):
            x = gap + column * (cell + gap)
            for number, line in enumerate(wrapped[position]):
                pen.text((x, y + number * line_height), line, fill=_INK_RGB, font=font)
            sheet.paste(Image.fromarray(fitted[position]), (x, y + title_height))
        y += title_height + height
    return np.array(sheet)


def save_png(path: Path, image_HWC: np.ndarray) -> None:
    """Write an image as a PNG file; a file of that name is replaced whole or not at all.

    Args:
        path: Where to; missing folders are made.
        image_HWC: RGB image, uint8, (H, W, 3).

    Raises:
        ValueError: If the image is not RGB uint8.
    """
    write_bytes_atomically(path, encode_png(image_HWC))


def encode_png(image_HWC: np.ndarray) -> bytes:
    """Encode an RGB uint8 image (H, W, 3) as the bytes of a PNG file."""
    _require_rgb(image_HWC)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image_HWC)).save(buffer, "PNG")  # `optimize` took most of a report's time
    return buffer.getvalue()


def encode_jpeg(image_HWC: np.ndarray, quality: int = 88) -> bytes:
    """Encode an RGB uint8 image (H, W, 3) as the bytes of a JPEG file.

    Colour is kept at full resolution: halving it, the usual default, smears contours one or two pixels wide.
    """
    _require_rgb(image_HWC)
    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(image_HWC))
    image.save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def fit_image(image_HWC: np.ndarray, max_side: int) -> np.ndarray:
    """Shrink an image (H, W, 3) by area averaging until its longer side is at most max_side pixels; never enlarge."""
    return _shrink(image_HWC, min(1.0, max_side / max(image_HWC.shape[:2])))


def _require_rgb(image_HWC: np.ndarray) -> None:
    """Refuse what is not a non-empty RGB uint8 image."""
    if image_HWC.ndim != 3 or image_HWC.shape[2] != 3 or image_HWC.dtype != np.uint8 or image_HWC.size == 0:
        raise ValueError(
            f"image is {image_HWC.dtype} {image_HWC.shape}: pass RGB uint8 of shape (H, W, 3), "
            "scaling or repeating the channels first"
        )


def _as_mask(name: str, mask_HW: np.ndarray | None, image_HWC: np.ndarray) -> np.ndarray | None:
    """Return the mask as bool; refuse one of another size than the image."""
    if mask_HW is None:
        return None
    if mask_HW.shape != image_HWC.shape[:2]:
        sizes = f"{mask_HW.shape} and the image {image_HWC.shape[:2]}"
        raise ValueError(f"{name} is {sizes}: resize the mask (nearest) first")
    return np.asarray(mask_HW) != 0


def _shrink(image: np.ndarray, scale: float) -> np.ndarray:
    """Return a copy of an image or mask, scaled by at most 1 with area averaging; a side never falls below 1 px."""
    if scale >= 1:
        return np.array(image, order="C")
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return cv2.resize(np.ascontiguousarray(image), dsize=(width, height), interpolation=cv2.INTER_AREA)


def _tint(picture_HWC: np.ndarray, error_HW: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Blend a colour into the picture, in place, in proportion to the share of each pixel that is in error."""
    if not error_HW.any():
        return
    height, width = picture_HWC.shape[:2]
    error_u8 = error_HW.astype(np.uint8) * 255
    share_HW = cv2.resize(error_u8, dsize=(width, height), interpolation=cv2.INTER_AREA)
    opacity_HW1 = share_HW[..., None].astype(np.float32) * (_ERROR_OPACITY / 255)
    blended = picture_HWC + opacity_HW1 * (np.asarray(colour, np.float32) - picture_HWC)
    picture_HWC[...] = np.rint(blended).astype(np.uint8)


def _draw_contours(picture_HWC: np.ndarray, truth_HW: np.ndarray | None, prediction_HW: np.ndarray | None) -> None:
    """Draw the contours in place: truth broad, prediction narrow above it, so that both show where they agree."""
    line_px = max(1, round(max(picture_HWC.shape[:2]) * _LINE_PX_PER_SIDE))
    truth = _contours(truth_HW, picture_HWC.shape)
    prediction = _contours(prediction_HW, picture_HWC.shape)
    truth_px = line_px + 2 if line_px > 1 else line_px
    prediction_px = line_px if truth else truth_px
    # A dark casing keeps bright lines visible on blank glass; lines of one pixel would drown in it.
    if line_px > 1:
        _stroke(picture_HWC, truth, _CASING_RGB, truth_px + 2)
        _stroke(picture_HWC, prediction, _CASING_RGB, prediction_px + 2)
    _stroke(picture_HWC, truth, TRUTH_RGB, truth_px)
    _stroke(picture_HWC, prediction, PREDICTION_RGB, prediction_px)


def _contours(mask_HW: np.ndarray | None, picture_shape: tuple[int, ...]) -> list[np.ndarray]:
    """Contours of a mask in the picture's fixed-point coordinates: int32 (points, 1, 2), x before y as OpenCV wants."""
    if mask_HW is None or not mask_HW.any():
        return []
    found, _ = cv2.findContours(mask_HW.astype(np.uint8), mode=cv2.RETR_LIST, method=cv2.CHAIN_APPROX_NONE)
    scale_xy = np.array([picture_shape[1] / mask_HW.shape[1], picture_shape[0] / mask_HW.shape[0]])
    last_xy = np.array([picture_shape[1] - 1, picture_shape[0] - 1])
    # Pixel centres lie at +0.5; points of one place are merged, for a slide's contour has millions of them.
    placed = (np.clip((points + 0.5) * scale_xy - 0.5, 0, last_xy) for points in found)
    return [_merge_repeats(np.rint(points * (1 << _SHIFT_BITS)).astype(np.int32)) for points in placed]


def _merge_repeats(points: np.ndarray) -> np.ndarray:
    """Drop points that repeat the one before them; (points, 1, 2) in and out, at least one point kept."""
    moved = np.ones(len(points), dtype=bool)
    moved[1:] = (points[1:] != points[:-1]).any(axis=(1, 2))
    return points[moved]


def _stroke(picture_HWC: np.ndarray, contours: list[np.ndarray], colour: tuple[int, int, int], thickness: int) -> None:
    """Draw closed contours in place; a line of one pixel is not smoothed, for it would fade."""
    line_type = cv2.LINE_AA if thickness > 1 else cv2.LINE_8
    cv2.polylines(
        picture_HWC, contours, isClosed=True, color=colour, thickness=thickness, lineType=line_type, shift=_SHIFT_BITS
    )


def _fit_cell(image_HWC: np.ndarray, cell: int) -> np.ndarray:
    """Fit an image into a white strip cell px wide and at most cell px high, centred; small ones are enlarged."""
    scale = cell / max(image_HWC.shape[:2])
    height, width = (min(cell, max(1, round(side * scale))) for side in image_HWC.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    strip_HWC = np.full((height, cell, 3), _PAPER, np.uint8)
    x = (cell - width) // 2
    resized = cv2.resize(np.ascontiguousarray(image_HWC), dsize=(width, height), interpolation=method)
    strip_HWC[:, x : x + width] = resized
    return strip_HWC


@lru_cache(maxsize=8)
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans as matplotlib ships it: the same letters on every machine, Greek and accents included."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size_px)


def _wrap_text(text: str, font: ImageFont.FreeTypeFont, width_px: int) -> list[str]:
    """The text in as few lines as it needs, of at most `_TITLE_LINES`; broken at blanks where there are any."""
    lines: list[str] = []
    rest = " ".join(text.split())
    while font.getlength(rest) > width_px and len(lines) < _TITLE_LINES - 1:
        fits = next((n for n in range(len(rest), 1, -1) if font.getlength(rest[:n]) <= width_px), 1)
        blank = rest.rfind(" ", 0, fits + 1)
        end = blank if blank > 0 else fits
        lines.append(rest[:end])
        rest = rest[end:].lstrip()
    return [*lines, _fit_text(rest, font, width_px)]


def _fit_text(text: str, font: ImageFont.FreeTypeFont, width_px: int) -> str:
    """Shorten a line with an ellipsis until it fits the width."""
    if font.getlength(text) <= width_px:
        return text
    while text and font.getlength(text + "…") > width_px:
        text = text[:-1]
    return text.rstrip() + "…"
