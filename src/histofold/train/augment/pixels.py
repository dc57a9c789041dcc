"""Changes of a tile's grey levels that move nothing: section, optics and camera.

Each takes uint8 RGB (H, W, 3), gives the same, and draws from the generator that it is handed alone.
"""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist

import cv2
import numpy as np

from histofold.core.stain import DENSITY_OF_VALUE, map_in_bands, stain_jitter_map
from histofold.imaging.shift import absorb_more
from histofold.train.augment.stain import quick_image

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_HUE_SHARE = 1 / 8  # of the colour strength, in turns
_MOST_HOLES = 4


def sharpen_or_blur(image_HWC: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """One of both: a 3 x 3 sharpening blended in by 0.2 to 0.5, or a Gaussian of 0.5 to 3 px cut at 3 or 5 px."""
    if generator.random() < 0.5:
        share, middle = generator.uniform(0.2, 0.5), 8 + generator.uniform(0.5, 1)
        kernel = np.full((3, 3), -share)
        kernel[1, 1] = 1 - share + share * middle
        return cv2.filter2D(image_HWC, -1, kernel)
    side = int(generator.choice([3, 5]))
    return cv2.GaussianBlur(image_HWC, (side, side), generator.uniform(0.5, 3))


def jitter_colours(image_HWC: np.ndarray, strength: float, generator: np.random.Generator) -> np.ndarray:
    """Brightness, contrast and saturation by a factor each, hue by an angle, as one affine map of RGB.

    Hue turns about the axis of greys, instead of around the HSV cone: then all four are linear and cost one pass.

    Args:
        image_HWC: uint8 RGB, (H, W, 3).
        strength: Largest relative change of the first three; hue turns by up to an eighth of it, in turns.
        generator: Source of the draws.
    """
    brightness, contrast, saturation = 1 + generator.uniform(-strength, strength, 3)
    angle = 2 * np.pi * _HUE_SHARE * generator.uniform(-strength, strength)
    # Rodrigues' formula for the axis (1, 1, 1) / sqrt(3).
    across_33 = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    turn_33 = np.cos(angle) * np.eye(3) + np.sin(angle) * across_33 + (1 - np.cos(angle)) / 3
    saturate_33 = saturation * np.eye(3) + (1 - saturation) * _LUMA
    grey = _LUMA @ np.array(cv2.mean(image_HWC)[:3])
    matrix_33 = brightness * contrast * saturate_33 @ turn_33
    offset_3 = np.full((3, 1), brightness * (1 - contrast) * grey)
    return cv2.transform(image_HWC, np.hstack([matrix_33, offset_3]).astype(np.float32))


def jitter_stains(image_HWC: np.ndarray, strength: float, generator: np.random.Generator) -> np.ndarray:
    """Scale and shift the amounts of haematoxylin, eosin and DAB; uint8 in, uint8 out.

    The logarithm is a table of 256 values and the three stains one affine map, so that it costs one pass.
    """
    scales = 1 + generator.uniform(-strength, strength, 3)
    shifts = generator.uniform(-strength, strength, 3)
    matrix, offset = stain_jitter_map(scales, shifts)
    affine = np.hstack([matrix.T, offset[:, None]]).astype(np.float32)

    def jitter(band_HWC: np.ndarray) -> np.ndarray:
        return quick_image(cv2.transform(cv2.LUT(band_HWC, DENSITY_OF_VALUE), affine))

    return map_in_bands(image_HWC, jitter)


def change_thickness(image_HWC: np.ndarray, ratio: float, generator: np.random.Generator) -> np.ndarray:
    """Show the section as if it had been cut thinner or thicker.

    The optical density grows by the factor itself: see `absorb_more`.

    Args:
        image_HWC: uint8 RGB, (H, W, 3).
        ratio: Largest factor to either side, drawn log-uniformly.
        generator: Source of the draws.
    """
    log2_factor = float(generator.uniform(-1, 1) * np.log2(ratio))
    return absorb_more(image_HWC, log2_factor)


def show_grey(image_HWC: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The tile in grey; nothing is drawn."""
    return cv2.cvtColor(cv2.cvtColor(image_HWC, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def equalise_locally(image_HWC: np.ndarray, limit: float, generator: np.random.Generator) -> np.ndarray:
    """Equalise the luma's histogram in 8 x 8 neighbourhoods, its slope limited to 1 to `limit` (CLAHE)."""
    luma_HWC = cv2.cvtColor(image_HWC, cv2.COLOR_RGB2YCrCb)
    equaliser = cv2.createCLAHE(float(generator.uniform(1, limit)), (8, 8))
    equalised_HW = equaliser.apply(np.ascontiguousarray(luma_HWC[..., 0]))
    return cv2.cvtColor(cv2.insertChannel(equalised_HW, luma_HWC, 0), cv2.COLOR_YCrCb2RGB)


def lose_detail(image_HWC: np.ndarray, ratio: float, generator: np.random.Generator) -> np.ndarray:
    """Show the tile as if it had been scanned at a pixel size larger by 1 to `ratio`, drawn log-uniformly."""
    height, width = image_HWC.shape[:2]
    factor = ratio ** generator.uniform(0, 1)
    coarse_wh = (max(1, round(width / factor)), max(1, round(height / factor)))
    coarse_HWC = image_HWC
    for _ in range(int(np.log2(factor))):
        # Halving averages; what is left is below 2, where linear interpolation misses no pixel, at a fifth of the time
        # that averaging by any other factor takes.
        half_wh = (max(1, coarse_HWC.shape[1] // 2), max(1, coarse_HWC.shape[0] // 2))
        coarse_HWC = cv2.resize(coarse_HWC, half_wh, interpolation=cv2.INTER_AREA)
    coarse_HWC = cv2.resize(coarse_HWC, coarse_wh, interpolation=cv2.INTER_LINEAR)
    return cv2.resize(coarse_HWC, (width, height), interpolation=cv2.INTER_LINEAR)


def add_noise(image_HWC: np.ndarray, strength: float, generator: np.random.Generator) -> np.ndarray:
    """Normal noise of a fifth of `strength` up to all of it, as a share of white, each channel by itself.

    A random byte picks one of 256 quantiles: a tenth of the time that normal numbers would take.
    """
    sigma = 255 * strength * generator.uniform(0.2, 1)
    table_V = np.rint(_normal_quantiles() * sigma).astype(np.int16)
    words = generator.bit_generator.random_raw(-(-image_HWC.size // 8))
    bytes_HWC = words.view(np.uint8)[: image_HWC.size].reshape(image_HWC.shape)
    return cv2.add(image_HWC, cv2.LUT(bytes_HWC, table_V), dtype=cv2.CV_8U)


@lru_cache(maxsize=1)
def _normal_quantiles() -> np.ndarray:
    """256 evenly spread quantiles of the normal distribution, float64."""
    return np.array([NormalDist().inv_cdf((value + 0.5) / 256) for value in range(256)])


def compress_jpeg(image_HWC: np.ndarray, quality: int, generator: np.random.Generator) -> np.ndarray:
    """Through JPEG and back, at a quality between `quality` and 95."""
    drawn = int(generator.integers(quality, 96))
    bgr_HWC = cv2.cvtColor(image_HWC, cv2.COLOR_RGB2BGR)
    data = cv2.imencode(".jpg", bgr_HWC, [cv2.IMWRITE_JPEG_QUALITY, drawn])[1]
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def cut_out(image_HWC: np.ndarray, area: float, generator: np.random.Generator) -> np.ndarray:
    """Paint over one to four rectangles with the tile's mean colour.

    After DeVries and Taylor, arXiv:1708.04552, where it is one square.

    Args:
        image_HWC: uint8 RGB, (H, W, 3).
        area: Largest share of the tile that they cover together.
        generator: Source of the draws.
    """
    height, width = image_HWC.shape[:2]
    mean_C = np.rint(cv2.meanStdDev(image_HWC)[0].ravel()).astype(np.uint8)
    changed_HWC = image_HWC.copy()
    holes = int(generator.integers(1, _MOST_HOLES + 1))
    for _ in range(holes):
        share = area / holes * generator.uniform(0.2, 1)
        aspect = 2 ** generator.uniform(-1, 1)
        hole_h, hole_w = (int(side) for side in (height * np.sqrt(share * aspect), width * np.sqrt(share / aspect)))
        # A hole that is longer than the tile would be cut off: less is covered, never more.
        y, x = (int(generator.integers(max(0, side) + 1)) for side in (height - hole_h, width - hole_w))
        changed_HWC[y : y + hole_h, x : x + hole_w] = mean_C
    return changed_HWC
