"""From amounts of stain to pixels: light through the stains, lens, lamp, sensor and an earlier JPEG compression.

Light that passes a stain of optical density d is white * 10**-d (Beer and Lambert), and the densities of two stains
add up; each stain has its direction in RGB (Ruifrok and Johnston 2001, Anal Quant Cytol Histol 23:291).
"""

from __future__ import annotations

import cv2
import numpy as np

from histofold.core.jit import njit
from histofold.synth.drawing.frame import Frame
from histofold.synth.drawing.lattice import expose_noise
from histofold.synth.drawing.tissue import Stain


def lens_px(stain: Stain, thickness_um: float, pixel_size_um: float) -> float:
    """Standard deviation of the optics' blur in pixels; a thicker section is less sharp."""
    return max(stain.blur_um * _thickness_factor(thickness_um) / pixel_size_um, 0.4)


def _thickness_factor(thickness_um: float) -> float:
    """How much darker and less sharp than 4 um; less than proportional, as stain does not reach all of a thick one."""
    return (thickness_um / 4.0) ** 0.35


def transmit(frame: Frame, amounts_HW2: np.ndarray, stain: Stain, thickness_um: float) -> np.ndarray:
    """Light that reaches the camera, (H, W, 3) float32 in 0 to 255."""
    sigma_px = lens_px(stain, thickness_um, frame.scene.pixel_size_um)
    amounts_HW2 = cv2.GaussianBlur(amounts_HW2, (0, 0), sigma_px)
    exponent_23 = (-np.log(10) * _thickness_factor(thickness_um) * stain.density_23).astype(np.float32)
    light_HWC = np.empty((*frame.shape_hw, 3), dtype=np.float32)
    _sum_densities(light_HWC, amounts_HW2, exponent_23, np.log(stain.white_3).astype(np.float32))
    return cv2.exp(light_HWC, dst=light_HWC)


@njit
def _sum_densities(
    light_HWC: np.ndarray, amounts_HW2: np.ndarray, exponent_23: np.ndarray, clear_3: np.ndarray
) -> None:
    """Logarithm of the light behind two stains; OpenCV's transform of two channels takes three times as long."""
    height, width, _ = light_HWC.shape
    for i in range(height):
        for j in range(width):
            for channel in range(3):
                density = (
                    amounts_HW2[i, j, 0] * exponent_23[0, channel] + amounts_HW2[i, j, 1] * exponent_23[1, channel]
                )
                light_HWC[i, j, channel] = density + clear_3[channel]


def read_out(
    light_HWC: np.ndarray, origin_yx: tuple[int, int], tilt_2: tuple[np.ndarray, np.ndarray], noise: float, seed: int
) -> np.ndarray:
    """Uneven lamp, sensor noise and rounding.

    Args:
        light_HWC: (H, W, 3) float32 in 0 to 255.
        origin_yx: Place of the first pixel on the slide: the noise belongs to the place.
        tilt_2: Brightness over the mean of each row (H,) and of each column (W,), minus 1; float32.
        noise: Standard deviation in grey levels.
        seed: Of the noise.

    Returns:
        (H, W, 3) uint8.
    """
    image_HWC = np.empty(light_HWC.shape, dtype=np.uint8)
    expose_noise(image_HWC, light_HWC, origin_yx, tilt_2, np.uint32(seed), np.float32(noise))
    return image_HWC


def jpeg_traces(image_HWC: np.ndarray, quality: int) -> np.ndarray:
    """What JPEG of a quality leaves of an image (H, W, 3) uint8 RGB; its 16-pixel blocks begin at the first pixel."""
    done, coded = cv2.imencode(".jpg", image_HWC[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    if not done or decoded is None:
        raise ValueError(f"an image of shape {image_HWC.shape} cannot be stored as JPEG: its sides must be 1 to 65500")
    return decoded[..., ::-1]
