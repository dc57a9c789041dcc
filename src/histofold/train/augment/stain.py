"""Colour augmentation that knows of stains: transfer to other stain vectors, and random colour templates.

Both take uint8 RGB and give uint8 RGB, draw from the generator that they are handed, and leave tiles of blank glass as
they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from histofold.core.stain import DENSITY_OF_VALUE, map_in_bands
from histofold.imaging.shift import HAEMATOXYLIN, SECOND_STAINS, StainTransfer, own_stains
from histofold.imaging.tissue import tissue_mask
from histofold.schema.parse import kept_json, parse_dataclass, plain, write_json

BLANK_FRACTION = 0.02
"""A tile with a smaller share of tissue is blank: it has no stain to change."""
COLOUR_SPACES: dict[str, tuple[int, int]] = {
    "lab": (cv2.COLOR_RGB2LAB, cv2.COLOR_LAB2RGB),
    "hsv": (cv2.COLOR_RGB2HSV, cv2.COLOR_HSV2RGB),
}
TEMPLATE_TILES = 64
"""Most tiles of a source that its templates are fitted on."""
_SAMPLE_SIDE = 64  # pixels a side of the thinned image that decides on the source's stains
_HUES = 180  # of OpenCV's 8-bit HSV, a circle


def transfer_stain(image_HWC: np.ndarray, strength: float, generator: np.random.Generator) -> np.ndarray:
    """Show the tile as if it had been stained with something else.

    The source's second stain is whichever of DAB, eosin and PAS explains the tile best. The amounts are recomposed with
    a haematoxylin near the usual one and a second stain drawn between those three. The light part of the haematoxylin
    flows to the second stain by a drawn share (`StainTransfer`), and a part of the second stain fades.

    Args:
        image_HWC: uint8 RGB, (H, W, 3).
        strength: 0 to 1; scales how far the stains' strengths and vectors stray and how much flows.
        generator: Source of the draws.

    Returns:
        uint8 RGB, (H, W, 3); the image itself where it is blank.
    """
    transfer = _draw_transfer(strength, generator)
    if is_blank(image_HWC):
        return image_HWC
    _, own_23 = own_stains(DENSITY_OF_VALUE[_thinned(image_HWC).reshape(-1, 3)])
    whole_33, haematoxylin_3, flow_3 = transfer.matrices(own_23)
    whole_33 = np.ascontiguousarray(whole_33.T, np.float32)
    haematoxylin_13 = haematoxylin_3[None].astype(np.float32)

    def restain(band_HWC: np.ndarray) -> np.ndarray:
        densities_HWC = cv2.LUT(band_HWC, DENSITY_OF_VALUE)
        light_HW = np.maximum(cv2.transform(densities_HWC, haematoxylin_13), 0)
        light_HW /= 1 + light_HW * np.float32(1 / transfer.light)
        mixed_HWC = cv2.transform(densities_HWC, whole_33)
        mixed_HWC += cv2.merge([light_HW * np.float32(value) for value in flow_3])
        return quick_image(mixed_HWC)

    return map_in_bands(image_HWC, restain)


def quick_image(densities_HWC: np.ndarray) -> np.ndarray:
    """As `image_of_densities`, five times as fast and off by one grey level here and there; spoils its input."""
    np.negative(densities_HWC, out=densities_HWC)
    cv2.exp(densities_HWC, densities_HWC)
    return cv2.convertScaleAbs(densities_HWC, alpha=256, beta=-1)


def _draw_transfer(strength: float, generator: np.random.Generator) -> StainTransfer:
    """A transfer whose strengths and vectors stray from the usual ones, and what flows, as far as `strength` says."""
    # Parameters below 1 favour the corners, the pure stains, over their mean, which nobody uses.
    mixture_3 = generator.dirichlet([0.5, 0.5, 0.5])
    vectors_23 = np.stack([HAEMATOXYLIN, mixture_3 @ SECOND_STAINS])
    vectors_23 = np.maximum(vectors_23 + generator.normal(0, 0.05 * strength, (2, 3)), 0.02)
    vectors_23 /= np.linalg.norm(vectors_23, axis=1, keepdims=True)
    light = float(generator.uniform(0.3, 1.2))
    haematoxylin = float(np.exp(generator.normal(0, 0.3 * strength)))
    fading, rest = 1 - strength * generator.uniform(0, 1, 2)
    # Eosin dyes cytoplasm up to four times as strongly as a counterstain does.
    share, boost = strength * generator.uniform(0.3, 1), np.exp(strength * generator.uniform(-0.4, 1.4))
    gains_3 = np.array([haematoxylin, fading, rest])
    return StainTransfer(vectors_23, gains_3, light, share=float(share), boost=float(boost))


def _thinned(image_HWC: np.ndarray) -> np.ndarray:
    """Every so many pixels of a tile, about `_SAMPLE_SIDE` a side."""
    step = max(1, min(image_HWC.shape[:2]) // _SAMPLE_SIDE)
    return np.ascontiguousarray(image_HWC[::step, ::step])


def is_blank(image_HWC: np.ndarray) -> bool:
    """Whether a tile shows too little tissue to speak of its colours."""
    return bool(tissue_mask(_thinned(image_HWC)).mean() < BLANK_FRACTION)


@dataclass(frozen=True, kw_only=True)
class ColourTemplates:
    """How the colours of one source vary from tile to tile, in one colour space of `COLOUR_SPACES`.

    Each row is over tiles: of their channels' means and of their channels' standard deviations.
    """

    source: str
    """Source of the tiles."""
    space: str
    """`lab` or `hsv`, in OpenCV's 8-bit units."""
    mean: tuple[float, float, float]
    """Mean of the tiles' means."""
    mean_spread: tuple[float, float, float]
    """Standard deviation of the tiles' means."""
    std: tuple[float, float, float]
    """Mean of the tiles' standard deviations."""
    std_spread: tuple[float, float, float]
    """Standard deviation of the tiles' standard deviations."""


def fit_templates(tiles: Mapping[str, Sequence[np.ndarray]]) -> tuple[ColourTemplates, ...]:
    """Fit the templates of each source from tiles, blank ones left out.

    Args:
        tiles: Tiles of each source, uint8 RGB.

    Returns:
        Two for each source with at least one tile that is not blank, one a colour space.
    """
    fitted = []
    for source, images in sorted(tiles.items()):
        useful = [image_HWC for image_HWC in images if not is_blank(image_HWC)]
        for space, (forth, _) in COLOUR_SPACES.items() if useful else ():
            moments_N2C = np.stack([_moments(cv2.cvtColor(image_HWC, forth)) for image_HWC in useful])
            mean_2C, spread_2C = moments_N2C.mean(axis=0).round(4), moments_N2C.std(axis=0).round(4)
            fitted.append(
                ColourTemplates(
                    source=source,
                    space=space,
                    mean=tuple(mean_2C[0].tolist()),
                    mean_spread=tuple(spread_2C[0].tolist()),
                    std=tuple(mean_2C[1].tolist()),
                    std_spread=tuple(spread_2C[1].tolist()),
                )
            )
    return tuple(fitted)


def kept_templates(
    path: Path, digest: str, sources: Sequence[str], read_image: Callable[[int], np.ndarray], keep: bool = True
) -> tuple[ColourTemplates, ...]:
    """The templates of a run, fitted on a bounded sample of its training tiles and kept in a file.

    Args:
        path: The file; another digest in it, or none, has the templates fitted and written.
        digest: Identifies the run's tiles.
        sources: Source of each training tile of the fold; tiles of the held-out slides must not be among them.
        read_image: Gives the uint8 RGB image of a tile by its place in `sources`.
        keep: Whether to write the file.
    """
    kept = kept_json(path)
    if kept.get("digest") == digest:
        return tuple(parse_dataclass(ColourTemplates, entry, str(path)) for entry in kept["templates"])
    names = np.asarray(sources, dtype=object)
    tiles = {}
    for source in sorted(set(sources)):
        places = np.random.default_rng(0).permutation(np.flatnonzero(names == source))[:TEMPLATE_TILES]
        tiles[source] = [read_image(int(place)) for place in places]
    templates = fit_templates(tiles)
    if keep:
        entry = {"digest": digest, "templates": [plain(template) for template in templates]}
        write_json(path, entry)
    return templates


def _moments(image_HWC: np.ndarray) -> np.ndarray:
    """Mean and standard deviation of the channels, (2, 3)."""
    mean_C1, std_C1 = cv2.meanStdDev(image_HWC)
    return np.stack([mean_C1[:, 0], std_C1[:, 0]])


def shift_to_template(
    image_HWC: np.ndarray, templates: Sequence[ColourTemplates], spread: float, generator: np.random.Generator
) -> np.ndarray:
    """Give the tile the channel means and deviations of a virtual template.

    A source and a colour space are drawn, then a mean and a deviation of each channel from what was fitted. After
    RandStainNA (Shen et al., MICCAI 2022), with the statistics of each source kept apart.

    Args:
        image_HWC: uint8 RGB, (H, W, 3).
        templates: Of `fit_templates`, at least one.
        spread: Factor of the fitted spreads; 0 draws the mean template.
        generator: Source of the draws.

    Returns:
        uint8 RGB, (H, W, 3); the image itself where it is blank.
    """
    template = templates[int(generator.integers(len(templates)))]
    mean_3 = np.array(template.mean) + spread * np.array(template.mean_spread) * generator.standard_normal(3)
    std_3 = np.array(template.std) + spread * np.array(template.std_spread) * generator.standard_normal(3)
    if is_blank(image_HWC):
        return image_HWC
    forth, back = COLOUR_SPACES[template.space]
    converted_HWC = cv2.cvtColor(image_HWC, forth)
    own_23 = _moments(converted_HWC)
    gains_3 = np.clip(np.maximum(std_3, 1.0) / np.maximum(own_23[1], 1.0), 0.25, 4.0)
    values_V1 = np.arange(256, dtype=np.float64)[:, None]
    table_V3 = np.rint((values_V1 - own_23[0]) * gains_3 + mean_3)
    if template.space == "hsv":
        table_V3[:, 0] %= _HUES
    table_V3 = np.clip(table_V3, 0, 255).astype(np.uint8)
    return cv2.cvtColor(cv2.LUT(converted_HWC, table_V3[None]), back)
