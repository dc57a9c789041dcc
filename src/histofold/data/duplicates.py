"""Near-duplicates: the same tissue in two images, which folds must not part.

Two steps. A perceptual hash (signs of the lowest cosine terms of a grey thumbnail, after Zauner, "Implementation and
Benchmarking of Perceptual Image Hash Functions", 2010) names candidates under the eight symmetries of the square. It
mostly sees where the tissue lies, so that two round cores look alike to it; each candidate is therefore held to the
correlation of fine structure (the thumbnail less its local mean, over its local spread) at the best shift and zoom.

Even background (glass, a black or white frame, the grey around a round core) is no evidence: local means and spreads
are taken over the rest alone, so that not even its outline counts, and the less of an image is left, the more alike it
must be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from tqdm import tqdm

from histofold.core.faults import ImageError
from histofold.imaging.resample import ScaledSlide
from histofold.imaging.slide import open_sample
from histofold.schema.sample import Sample

FINGERPRINT_SIDE = 96
"""Side of the square grey thumbnail that stands for an image, in pixels."""
HASH_SIDE = 8
"""The lowest cosine terms of each axis that are hashed."""
MAX_HASH_DISTANCE = 24
"""Most differing bits (of 63) of two images that are compared closely; unrelated images differ in 32 on average."""
MIN_CORRELATION = 0.35
"""Least correlation of fine structure of a near-duplicate; unrelated images have less than half of it."""
FULL_EVIDENCE = 1 / 3
"""Images of which less than this share is no even background must be more alike: chance correlation grows with the
inverse root of the share."""
MAX_SHIFT = 0.15
"""Largest shift that is looked at, as a share of a side."""
ZOOMS = (0.92, 0.96, 1.0, 1.04, 1.08)
"""Zooms that are tried: a copy that lost its margin is stretched by as much."""
_ROUGH_CORRELATION = 0.08  # without zoom; a pair below it is not looked at further
_DETAIL_SIGMA = 3.0  # pixels of the fingerprint: structure finer than this is compared
_DETAIL_FLOOR = 4.0  # grey levels: flatter parts are glass, whose noise must not be blown up
_EVEN_SIDE, _EVEN_LEVELS = 5, 6  # squares of the fingerprint within so many grey levels are even background
_MIXED_RIM = 2  # pixels beside it that hold some of it, or ringing of a JPEG


@dataclass(frozen=True)
class DuplicatePair:
    """Two images that show the same tissue."""

    first: str
    """Id of the one that comes first in the table."""
    second: str
    """Id of the other."""
    correlation: float
    """Correlation of their fine structure, up to 1."""


def fingerprint(image_HWC: np.ndarray) -> np.ndarray:
    """The grey thumbnail that stands for an image: uint8 (`FINGERPRINT_SIDE`, `FINGERPRINT_SIDE`), stretched.

    Args:
        image_HWC: uint8 RGB of any size, best a thumbnail.
    """
    grey_HW = cv2.cvtColor(np.ascontiguousarray(image_HWC), cv2.COLOR_RGB2GRAY)
    size = (FINGERPRINT_SIDE, FINGERPRINT_SIDE)
    return np.asarray(cv2.resize(grey_HW, dsize=size, interpolation=cv2.INTER_AREA))


def perceptual_hash(grey_HW: np.ndarray) -> np.ndarray:
    """Signs of the lowest cosine terms about their median, the constant one left out: bool (63,).

    Args:
        grey_HW: A fingerprint, or a symmetry of one.
    """
    small_HW = cv2.resize(np.ascontiguousarray(grey_HW), dsize=(32, 32), interpolation=cv2.INTER_AREA)
    terms = cv2.dct(small_HW.astype(np.float32))[:HASH_SIDE, :HASH_SIDE].reshape(-1)[1:]
    return np.asarray(terms > np.median(terms))


def square_symmetries(square_HW: np.ndarray) -> list[np.ndarray]:
    """The eight flips and rotations of a square; the first is itself."""
    turned = [np.rot90(square_HW, turns) for turns in range(4)]
    return [*turned, *(np.fliplr(square) for square in turned)]


def find_duplicates(fingerprints: Mapping[str, np.ndarray]) -> list[DuplicatePair]:
    """All pairs of images that show the same tissue, shifted a little, turned, mirrored, darker or recompressed.

    Args:
        fingerprints: `fingerprint` of each image by id.

    Returns:
        Pairs in the order of the ids.
    """
    ids = list(fingerprints)
    if len(ids) < 2:
        return []
    hashes_NP = np.stack([perceptual_hash(fingerprints[key]) for key in ids])
    turned = [square_symmetries(fingerprints[key]) for key in ids]
    # Single precision: there is one of each image, and an audit must stay small.
    evidence = [_evidence(fingerprints[key]) for key in ids]
    details = [np.fft.rfft2(_detail(fingerprints[key])).astype(np.complex64) for key in ids]
    pairs = []
    for second in range(1, len(ids)):
        best: dict[int, float] = {}
        for symmetry in turned[second]:
            distances = (hashes_NP[:second] != perceptual_hash(symmetry)).sum(axis=1)
            near = np.flatnonzero(distances <= MAX_HASH_DISTANCE).tolist()
            if near:
                plain = np.fft.rfft2(_detail(symmetry))
                close = [
                    first
                    for first in near
                    if _peak_correlation(details[first], plain) * min(evidence[first], evidence[second])
                    >= _ROUGH_CORRELATION
                ]
                for zoom in ZOOMS if close else ():
                    detail = np.fft.rfft2(_detail(_zoomed(symmetry, zoom)))
                    for first in close:
                        best[first] = max(best.get(first, -1.0), _peak_correlation(details[first], detail))
        found = {
            first: value
            for first, value in sorted(best.items())
            if value * min(evidence[first], evidence[second]) >= MIN_CORRELATION
        }
        pairs += [DuplicatePair(ids[first], ids[second], value) for first, value in found.items()]
    return pairs


def _zoomed(square_HW: np.ndarray, zoom: float) -> np.ndarray:
    """A fingerprint enlarged about its centre; beyond its border it is reflected."""
    middle = (FINGERPRINT_SIDE - 1) / 2
    map_xy = np.array([[zoom, 0, middle * (1 - zoom)], [0, zoom, middle * (1 - zoom)]])
    size = (FINGERPRINT_SIDE, FINGERPRINT_SIDE)
    zoomed = cv2.warpAffine(np.ascontiguousarray(square_HW), map_xy, size, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(zoomed)


def _even_background(square_HW: np.ndarray) -> np.ndarray:
    """Where a fingerprint is even over a square of some pixels, with the rim that is mixed with it: bool (H, W)."""
    square_HW = np.ascontiguousarray(square_HW)
    around = np.ones((_EVEN_SIDE, _EVEN_SIDE), np.uint8)
    is_even_HW = cv2.dilate(square_HW, around) - cv2.erode(square_HW, around) <= _EVEN_LEVELS
    reach = _EVEN_SIDE + 2 * _MIXED_RIM
    return np.asarray(cv2.dilate(is_even_HW.astype(np.uint8), np.ones((reach, reach), np.uint8))) > 0


def _evidence(square_HW: np.ndarray) -> float:
    """By how much a correlation counts, 0 to 1: less where little of an image is no even background."""
    return float(np.sqrt(min(1.0, (1 - _even_background(square_HW).mean()) / FULL_EVIDENCE)))


def _detail(square_HW: np.ndarray) -> np.ndarray:
    """Fine structure of a fingerprint, tapered to its border and of unit energy; zero on even background."""
    weight_HW = np.where(_even_background(square_HW), 0.0, 1.0)
    around_HW = cv2.GaussianBlur(weight_HW, (0, 0), _DETAIL_SIGMA) + 1e-6
    grey_HW = square_HW.astype(np.float64)
    mean_HW = cv2.GaussianBlur(grey_HW * weight_HW, (0, 0), _DETAIL_SIGMA) / around_HW
    variance_HW = cv2.GaussianBlur((grey_HW - mean_HW) ** 2 * weight_HW, (0, 0), _DETAIL_SIGMA) / around_HW
    taper = np.hanning(len(grey_HW) + 2)[1:-1]
    detail_HW = (grey_HW - mean_HW) / (np.sqrt(np.maximum(variance_HW, 0)) + _DETAIL_FLOOR)
    detail_HW *= weight_HW * np.sqrt(np.outer(taper, taper))
    energy = float(np.sqrt((detail_HW**2).sum()))
    return detail_HW / energy if energy > 0 else detail_HW


def _peak_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """The highest correlation of two transformed details over shifts of up to `MAX_SHIFT` of a side."""
    correlation_HW = np.fft.irfft2(first * np.conj(second), s=(FINGERPRINT_SIDE, FINGERPRINT_SIDE))
    reach = int(MAX_SHIFT * FINGERPRINT_SIDE)
    near = np.r_[0 : reach + 1, -reach:0]
    return float(correlation_HW[np.ix_(near, near)].max())


def cluster_pairs(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Connected ids: id to the name of its cluster; ids without a partner are left out.

    A cluster is named after that of its ids that stands first among the pairs.
    """
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for first, second in pairs:
        parent[root(second)] = root(first)
    names: dict[str, str] = {}
    return {key: names.setdefault(root(key), key) for key in list(parent)}


def duplicate_groups(samples: Sequence[Sample]) -> dict[str, str]:
    """Clusters of near-duplicates among the images of samples; what cannot be read is left out.

    Args:
        samples: What to compare.

    Returns:
        Id to cluster, named as in `cluster_pairs`, only of images that have a near-duplicate.
    """
    fingerprints = {}
    for sample in tqdm(samples, desc="compare images", unit="image", dynamic_ncols=True):
        try:
            with open_sample(sample) as slide:
                view = ScaledSlide(slide, (FINGERPRINT_SIDE, FINGERPRINT_SIDE))
                fingerprints[sample.id] = fingerprint(view.read(slice(None), slice(None)))
        except ImageError:
            continue  # a fault of the folder, which the audit names
    return cluster_pairs((pair.first, pair.second) for pair in find_duplicates(fingerprints))
