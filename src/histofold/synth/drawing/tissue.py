"""From painted layers to pixels: nuclei, what binds which stain, light through the stains, lens, lamp and sensor.

Light that passes a stain of optical density d is white * 10**-d (Beer and Lambert), and the densities of two stains
add up; each stain has its direction in RGB (Ruifrok and Johnston 2001, Anal Quant Cytol Histol 23:291).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from histofold.core.jit import njit
from histofold.imaging.shift import density_of_thickness
from histofold.synth.drawing.frame import SOFT_UM, Frame, Layers
from histofold.synth.drawing.lattice import expose_noise, stamp_ellipses, uniform_at

_HAEMATOXYLIN = (0.650, 0.704, 0.286)
_SECOND_STAIN = {"dab": (0.268, 0.570, 0.776), "eosin": (0.12, 0.93, 0.34), "pas": (0.175, 0.95, 0.26)}
# What a unit of each term binds, rows haematoxylin and the second stain; the terms: tissue, cytoplasm, nucleus,
# cytoplasm of epithelium, cytoplasm where a nucleus is, mucin.
_BINDING = {
    "dab": ((0.015, 0.22, 0.55, 0.0, 0.0, 0.0), (0.01, 0.06, 0.0, 0.0, 0.0, 0.0)),
    "eosin": ((0.01, 0.05, 0.62, 0.12, 0.0, 0.0), (0.01, 0.33, 0.0, 0.0, -0.15, 0.0)),
    "pas": ((0.01, 0.06, 0.50, 0.0, 0.0, 0.0), (0.01, 0.17, 0.0, 0.0, -0.085, 0.24)),
}
# What the antibody binds, of cytoplasm, nucleus and cytoplasm of epithelium.
_ANTIGENS = {
    "epithelium": (0.0, 0.0, 1.0),
    "fibre": (1.0, 0.0, -1.0),
    "nuclei": (0.0, 0.8, 0.0),
    "none": (0.0, 0.0, 0.0),
}
_NUCLEUS_UM = 7.5


@dataclass(frozen=True, kw_only=True)
class Stain:
    """How one donor's slides are stained and seen."""

    second: str
    """The stain beside haematoxylin: dab, eosin or pas."""
    density_23: np.ndarray
    """Optical density in RGB of one unit of haematoxylin and of the second stain, (2, 3)."""
    white_3: np.ndarray
    """RGB of clear glass, 0 to 255."""
    antigen: str
    """What the antibody of a DAB stain binds to: epithelium, fibre, nuclei or none."""
    antigen_strength: float
    """Units of DAB where it binds."""
    blur_um: float
    """Standard deviation of the optics' blur."""
    noise: float
    """Standard deviation of the sensor's noise in grey levels."""


def draw_stain(rng: np.random.Generator, second: str) -> Stain:
    """Draw a donor's stain: dab, eosin or pas.

    Raises:
        ValueError: The stain is not known.
    """
    if second not in _SECOND_STAIN:
        raise ValueError(f"stain {second!r} is not one of {', '.join(_SECOND_STAIN)}")
    vectors_23 = np.array([_HAEMATOXYLIN, _SECOND_STAIN[second]]) + rng.normal(0, 0.03, (2, 3))
    vectors_23 = np.clip(vectors_23, 0.02, None)
    vectors_23 /= np.linalg.norm(vectors_23, axis=1, keepdims=True)
    strength_2 = np.exp(rng.normal(0, 0.14, 2))
    return Stain(
        second=second,
        density_23=vectors_23 * strength_2[:, None],
        white_3=rng.uniform(236, 248) + rng.normal(0, 2.0, 3),
        antigen=str(rng.choice(list(_ANTIGENS))),
        antigen_strength=float(rng.uniform(0.2, 0.45)),
        blur_um=float(rng.uniform(0.2, 0.4)),
        noise=float(rng.uniform(1.2, 2.6)),
    )


def soft_px(px_per_um: float, length_um: float = SOFT_UM) -> float:
    """Standard deviation in pixels of cytoplasm's fading over a length, for `px_per_um` pixels a um."""
    return max(length_um * px_per_um, 0.5)


def stain_amounts(layers: Layers, stain: Stain) -> np.ndarray:
    """Units of haematoxylin and of the second stain at each pixel of a frame, (H, W, 2) float32."""
    frame = layers.frame
    scene = frame.scene
    sigma_px = soft_px(scene.px(1), layers.soft_um)
    cyto, epithelium = (cv2.GaussianBlur(map_HW, (0, 0), sigma_px) for map_HW in (layers.cyto, layers.epithelium))
    mucin = cv2.GaussianBlur(layers.mucin, (0, 0), sigma_px) if stain.second == "pas" else layers.mucin
    texture = frame.noise("texture", scene.px(45), octaves=5, persistence=0.75)
    # Thickness and stain drift over a slide.
    drift = frame.noise("drift", max(scene.shape_hw) * 0.7, octaves=2)
    bound_3 = np.zeros(3, dtype=np.float32)
    patchy = drift
    if stain.second == "dab" and stain.antigen != "none":
        bound_3 = np.array(_ANTIGENS[stain.antigen], dtype=np.float32) * np.float32(stain.antigen_strength)
        patchy = frame.noise("antigen", scene.px(160), octaves=3)
    amounts_HW2 = np.empty((*frame.shape_hw, 2), dtype=np.float32)
    maps = (cyto, draw_nuclei(layers), epithelium, mucin)
    binding_26 = np.array(_BINDING[stain.second], dtype=np.float32)
    edge = np.float32(1 / max(scene.px(4), 1.0))
    _mix_stains(amounts_HW2, maps, (texture, drift, patchy, layers.depth), binding_26, bound_3, edge)
    return amounts_HW2


@njit
def _mix_stains(
    amounts_HW2: np.ndarray,
    maps: tuple[np.ndarray, ...],
    fields: tuple[np.ndarray, ...],
    binding_26: np.ndarray,
    bound_3: np.ndarray,
    edge: np.float32,
) -> None:
    """Amounts of both stains from maps of tissue and from the fields texture, drift, patchiness and depth."""
    cyto_HW, nuclei_HW, epithelium_HW, mucin_HW = maps
    texture_HW, drift_HW, patchy_HW, depth_HW = fields
    one, level = np.float32(1), np.float32(1 / 255)
    height, width = cyto_HW.shape
    for i in range(height):
        for j in range(width):
            cyto = max(cyto_HW[i, j] * level * (one + np.float32(0.2) * texture_HW[i, j]), np.float32(0))
            nucleus = nuclei_HW[i, j] * level
            lining = epithelium_HW[i, j] * level * cyto
            mucin = mucin_HW[i, j] * level
            both = cyto * nucleus
            patchy = max(one + np.float32(0.5) * patchy_HW[i, j], np.float32(0.1))
            antibody = (bound_3[0] * cyto + bound_3[1] * nucleus + bound_3[2] * lining) * patchy
            present = min(max(depth_HW[i, j] * edge + np.float32(0.5), np.float32(0)), one)
            present *= one + np.float32(0.12) * drift_HW[i, j]
            for k in range(2):
                amount = binding_26[k, 0] + binding_26[k, 1] * cyto + binding_26[k, 2] * nucleus
                amount += binding_26[k, 3] * lining + binding_26[k, 4] * both + binding_26[k, 5] * mucin
                amounts_HW2[i, j, k] = (amount + k * antibody) * present


def draw_nuclei(layers: Layers) -> np.ndarray:
    """Nuclei as small soft ellipses, (H, W) uint8 with 255 for one."""
    frame, scene = layers.frame, layers.frame.scene
    # Shrunk less than the anatomy, or they would be dust in a strongly shrunken scene.
    diameter_px = max(_NUCLEUS_UM * scene.shrink**0.75 / scene.pixel_size_um, 1.5)
    points, rows, columns = frame.nodes("nuclei", diameter_px * 1.15, jitter=0.28)
    y, x = points.astype(np.intp).T
    present = uniform_at(scene.seed("nucleus kept"), rows, columns) < layers.nuclei[y, x] * np.float32(1 / 255)
    present &= layers.depth[y, x] > 0
    points, rows, columns, y, x = points[present], rows[present], columns[present], y[present], x[present]
    size, ratio, turn, strength = (
        uniform_at(scene.seed(f"nucleus {what}"), rows, columns) for what in ("size", "ratio", "turn", "strength")
    )
    # Crowded nuclei are lymphocytes: round, too.
    is_round = (layers.epithelium[y, x] > 0) | (layers.nuclei[y, x] > 0.3 * 255)
    half_px = diameter_px / 2 * (0.7 + 0.5 * size.astype(np.float64))
    stretch = np.sqrt(np.where(is_round, 1.2, 2.6) * (0.85 + 0.4 * ratio))
    radii = np.stack([half_px * stretch, half_px / stretch], axis=1)
    angles = np.pi * turn.astype(np.float64)
    if layers.fibre_angle is not None:
        angles = np.where(is_round, angles, layers.fibre_angle + 0.8 * (turn - 0.5))
    nuclei = np.zeros(frame.shape_hw, dtype=np.uint8)
    stamp_ellipses(nuclei, points, radii, angles, 255 * (0.5 + 0.5 * strength.astype(np.float64)))
    for placed in layers.placed:
        points = placed[:, :2] - (frame.y0, frame.x0)
        stamp_ellipses(nuclei, points, placed[:, 2:4], placed[:, 4], np.full(len(placed), 225.0))
    return nuclei


def lens_px(stain: Stain, thickness_um: float, pixel_size_um: float) -> float:
    """Standard deviation of the optics' blur in pixels; a thicker section is less sharp."""
    return max(stain.blur_um * _thickness_factor(thickness_um) / pixel_size_um, 0.4)


def _thickness_factor(thickness_um: float) -> float:
    """How much darker and less sharp than 4 um."""
    return density_of_thickness(thickness_um / 4.0)


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
