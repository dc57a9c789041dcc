"""From a layout to a picture: tissue edge, nuclei, stains in optical density, optics and sensor.

Light that passes a stain of optical density d is white * 10**-d (Beer and Lambert), and the densities of two stains
add up; each stain has its direction in RGB (Ruifrok and Johnston 2001, Anal Quant Cytol Histol 23:291).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from histoseg.synth.canvas import Scene, ellipse_templates, fractal_noise, jittered_points, stamp
from histoseg.synth.layers import Layers
from histoseg.synth.organs import plan_organ

_HAEMATOXYLIN = (0.650, 0.704, 0.286)
_SECOND_STAIN = {"dab": (0.268, 0.570, 0.776), "eosin": (0.12, 0.93, 0.34), "pas": (0.175, 0.95, 0.26)}
_ANTIGENS = ("epithelium", "fibre", "nuclei", "none")
_NUCLEUS_UM = 7.5
# Coarser pixels than this are drawn finer and averaged, as a camera does; else nuclei would vanish between the pixels.
_COARSEST_PIXEL_UM = 1.3


@dataclass(frozen=True, kw_only=True)
class Stain:
    """How one donor's slides are stained and seen.

    Attributes:
        second: The stain beside haematoxylin: dab, eosin or pas.
        density_23: Optical density in RGB of one unit of haematoxylin and of the second stain, (2, 3).
        white_3: RGB of clear glass, 0 to 255.
        antigen: What the antibody of a DAB stain binds to: epithelium, fibre, nuclei or none.
        antigen_strength: Units of DAB where it binds.
        blur_um: Standard deviation of the optics' blur.
        noise: Standard deviation of the sensor's noise in grey levels.
    """

    second: str
    density_23: np.ndarray
    white_3: np.ndarray
    antigen: str
    antigen_strength: float
    blur_um: float
    noise: float


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One synthetic image.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool, True on functional tissue units.
    """

    image: np.ndarray
    mask: np.ndarray


def draw_stain(rng: np.random.Generator, second: str) -> Stain:
    """Draw a donor's stain.

    Args:
        rng: The donor's generator.
        second: dab, eosin or pas.

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
        antigen=str(rng.choice(_ANTIGENS)),
        antigen_strength=float(rng.uniform(0.2, 0.45)),
        blur_um=float(rng.uniform(0.2, 0.4)),
        noise=float(rng.uniform(1.2, 2.6)),
    )


def draw_picture(
    rng: np.random.Generator,
    *,
    organ: str,
    stain: Stain,
    shape_hw: tuple[int, int],
    pixel_size_um: float,
    shrink: float,
    thickness_um: float = 4.0,
) -> Picture:
    """Draw tissue of an organ with its truth.

    Args:
        rng: The image's generator.
        organ: One of `ORGAN_PLANS`.
        stain: The donor's stain.
        shape_hw: Height and width in pixels.
        pixel_size_um: Side of a pixel.
        shrink: Size of objects over their real size.
        thickness_um: Of the section: a thicker one is darker and less sharp.

    Returns:
        The picture; its truth is never empty.
    """
    finer = max(1, int(np.ceil(pixel_size_um / _COARSEST_PIXEL_UM)))
    scene = Scene(
        shape_hw=(shape_hw[0] * finer, shape_hw[1] * finer), pixel_size_um=pixel_size_um / finer, shrink=shrink
    )
    layers = plan_organ(rng, scene, organ, _tissue_depth(rng, scene, core=stain.second == "dab"))
    amounts_HW2 = _stain_amounts(rng, scene, layers, stain)
    image_HWC = _expose(rng, scene, amounts_HW2, stain, thickness_um)
    ftu_HW = layers.ftu
    if finer > 1:
        image_HWC = cv2.resize(image_HWC, shape_hw[::-1], interpolation=cv2.INTER_AREA)
        ftu_HW = cv2.resize(ftu_HW, shape_hw[::-1], interpolation=cv2.INTER_AREA)
    return Picture(image=_read_out(rng, image_HWC, stain.noise), mask=_without_slivers(ftu_HW, scene, finer))


def _tissue_depth(rng: np.random.Generator, scene: Scene, core: bool) -> np.ndarray:
    """Distance from the tissue's edge in pixels, (H, W) float32: a round core, or a section with one free side.

    Drawn on every eighth pixel and enlarged, as the edge is smooth.
    """
    height, width = scene.shape_hw
    small = (height // 8 + 2, width // 8 + 2)
    y = np.linspace(-0.5, 0.5, small[0], dtype=np.float32)[:, None] * height
    x = np.linspace(-0.5, 0.5, small[1], dtype=np.float32)[None, :] * width
    direction = rng.uniform(0, 2 * np.pi)
    if core:
        shift_px = rng.uniform(0.0, 0.15) * np.hypot(height, width)
        radius_px = rng.uniform(0.46, 0.53) * np.hypot(height, width)
        depth = radius_px - np.hypot(y - shift_px * np.sin(direction), x - shift_px * np.cos(direction))
    else:
        reach_px = (abs(np.sin(direction)) * height + abs(np.cos(direction)) * width) / 2
        depth = rng.uniform(0.5, 0.8) * reach_px + y * np.sin(direction) + x * np.cos(direction)
    ripple = fractal_noise(rng, small, min(height, width) / 8 * 0.4, octaves=4)
    depth = (depth + ripple * 0.02 * min(height, width)).astype(np.float32)
    return cv2.resize(depth, (width, height), interpolation=cv2.INTER_LINEAR)


def _stain_amounts(rng: np.random.Generator, scene: Scene, layers: Layers, stain: Stain) -> np.ndarray:
    """Units of haematoxylin and of the second stain at each pixel, (H, W, 2) float32."""
    soft_px = max(scene.px(2.5), 0.5)
    cyto = cv2.GaussianBlur(layers.cyto, (0, 0), soft_px)
    cyto *= 1 + 0.16 * fractal_noise(rng, scene.shape_hw, scene.px(45), octaves=5, persistence=0.75)
    np.maximum(cyto, 0, out=cyto)
    nuclei = _draw_nuclei(rng, scene, layers)
    epithelium = cv2.GaussianBlur(layers.epithelium, (0, 0), soft_px)
    # Thickness and stain drift over a slide.
    drift = 1 + 0.10 * fractal_noise(rng, scene.shape_hw, max(scene.shape_hw) * 0.7, octaves=2)
    if stain.second == "dab":
        haematoxylin = 0.015 + 0.22 * cyto + 0.55 * nuclei
        second = 0.01 + 0.06 * cyto + _bound_antibody(rng, scene, stain, cyto, nuclei, epithelium)
    elif stain.second == "eosin":
        haematoxylin = 0.01 + 0.05 * cyto + 0.12 * epithelium * cyto + 0.62 * nuclei
        second = 0.01 + 0.33 * cyto * (1 - 0.45 * nuclei)
    else:
        haematoxylin = 0.01 + 0.06 * cyto + 0.50 * nuclei
        second = 0.01 + 0.17 * cyto * (1 - 0.5 * nuclei) + 0.24 * cv2.GaussianBlur(layers.mucin, (0, 0), soft_px)
    tissue = np.clip(layers.depth / max(scene.px(4), 1.0) + 0.5, 0, 1) * drift
    return cv2.merge([haematoxylin * tissue, second * tissue])


def _bound_antibody(
    rng: np.random.Generator,
    scene: Scene,
    stain: Stain,
    cyto: np.ndarray,
    nuclei: np.ndarray,
    epithelium: np.ndarray,
) -> np.ndarray:
    """Units of DAB where the donor's antibody binds, patchy; (H, W) float32."""
    if stain.antigen == "none":
        return np.zeros_like(cyto)
    target = {"epithelium": epithelium * cyto, "fibre": cyto * (1 - epithelium), "nuclei": 0.8 * nuclei}[stain.antigen]
    patchy = 1 + 0.4 * fractal_noise(rng, scene.shape_hw, scene.px(160), octaves=3)
    return stain.antigen_strength * target * np.maximum(patchy, 0.1)


def _draw_nuclei(rng: np.random.Generator, scene: Scene, layers: Layers) -> np.ndarray:
    """Nuclei as small soft ellipses, (H, W) float32 in 0 to 1."""
    # Shrunk less than the anatomy, or they would be dust in a strongly shrunken scene.
    diameter_px = max(_NUCLEUS_UM * scene.shrink**0.75 / scene.pixel_size_um, 1.5)
    points = jittered_points(rng, scene.shape_hw, diameter_px * 1.15, jitter=0.28)
    at = points.astype(np.intp)
    present = rng.random(len(points)) < layers.nuclei[at[:, 0], at[:, 1]]
    present &= layers.depth[at[:, 0], at[:, 1]] > 0
    points, at = points[present], at[present]
    lining = layers.epithelium[at[:, 0], at[:, 1]] > 0
    # Crowded nuclei are lymphocytes: round, too.
    round_one = lining | (layers.nuclei[at[:, 0], at[:, 1]] > 0.3)
    nuclei = np.zeros(scene.shape_hw, dtype=np.float32)
    for chosen, stretch, angle in ((round_one, 1.2, None), (~round_one, 2.6, layers.fibre_angle)):
        templates = ellipse_templates(rng, diameter_px, stretch, angle)
        strength = rng.uniform(0.5, 1.0, int(chosen.sum())).astype(np.float32)
        stamp(nuclei, points[chosen], templates, strength)
    return nuclei


def _expose(
    rng: np.random.Generator, scene: Scene, amounts_HW2: np.ndarray, stain: Stain, thickness_um: float
) -> np.ndarray:
    """Light that reaches the camera, (H, W, 3) float32 in 0 to 255."""
    thickness = (thickness_um / 4.0) ** 0.35
    blur_px = stain.blur_um * thickness / scene.pixel_size_um
    amounts_HW2 = cv2.GaussianBlur(amounts_HW2, (0, 0), max(blur_px, 0.4))
    exponent_32 = (-np.log(10) * thickness * stain.density_23.T).astype(np.float32)
    light_HWC = cv2.transform(amounts_HW2, exponent_32)
    np.exp(light_HWC, out=light_HWC)
    height, width = scene.shape_hw
    tilt = rng.normal(0, 0.012, 2).astype(np.float32)
    lamp = 1 + tilt[0] * np.linspace(-1, 1, height, dtype=np.float32)[:, None, None]
    lamp = lamp + tilt[1] * np.linspace(-1, 1, width, dtype=np.float32)[None, :, None]
    light_HWC *= lamp * stain.white_3.astype(np.float32)
    return light_HWC


def _read_out(rng: np.random.Generator, light_HWC: np.ndarray, noise: float) -> np.ndarray:
    """Sensor noise and rounding, (H, W, 3) uint8."""
    light_HWC = light_HWC + noise * rng.standard_normal(light_HWC.shape, dtype=np.float32)
    return np.clip(np.rint(light_HWC), 0, 255).astype(np.uint8)


def _without_slivers(ftu_HW: np.ndarray, scene: Scene, finer: int) -> np.ndarray:
    """Truth without crumbs cut off by an edge, (H, W) bool; the largest piece stays whatever its size."""
    # Half of the maximum, not 0.5: an object smaller than a coarse pixel covers no pixel by half.
    mask = (ftu_HW > 0.5 * float(ftu_HW.max())).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    area = stats[:, cv2.CC_STAT_AREA]
    keep = area >= (scene.px(22) / finer) ** 2
    keep[0] = False
    if count > 1:
        keep[1 + int(np.argmax(area[1:]))] = True
    kept = keep[labels]
    assert kept.any(), "a plan must leave at least one FTU in the image"
    return kept
