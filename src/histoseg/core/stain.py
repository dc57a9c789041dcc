"""Stain vectors in optical density, and the jitter of stains as one affine map of optical densities."""

from __future__ import annotations

import numpy as np

# Rows: haematoxylin, eosin, DAB. Source: Ruifrok and Johnston, Anal Quant Cytol Histol 23, 2001, as unit vectors.
HED_FROM_RUIFROK = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])


def stain_jitter_map(scales: np.ndarray, shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The affine map of optical densities that scales and shifts the amounts of three stains.

    Amounts c and densities d satisfy d = c S with the stain matrix S, so c' = c diag(scales) + shifts gives
    d' = d (S^-1 diag(scales) S) + shifts S: one 3 x 3 product a pixel. After Tellez et al., IEEE TMI 37, 2018.

    Args:
        scales: Factor of each stain, shape (3,).
        shifts: Added amount of each stain, shape (3,).

    Returns:
        (matrix 3 x 3, offset 3) with densities' = densities @ matrix + offset.
    """
    stains = HED_FROM_RUIFROK / np.linalg.norm(HED_FROM_RUIFROK, axis=1, keepdims=True)
    return np.linalg.inv(stains) @ np.diag(scales) @ stains, shifts @ stains
