"""The boundary loss: every pixel costs what it is away from the mask's border."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from histofold.schema.loss import LossConfig
from histofold.train.losses.scores import Scores


def boundary_loss(scores: Scores, config: LossConfig) -> torch.Tensor:
    """Mean of probability times signed distance from the border, after Kervadec et al., arXiv:1812.07032.

    It lies in [-1, 1] and is below 0 for a good answer, so it goes beside a term of overlap. Ignored pixels do not
    count, and are background for the distances of others.
    """
    planes_NKHW = scores.truth.planes_NKHW
    distances = signed_distances(planes_NKHW.to("cpu", torch.uint8).numpy())
    distances_NKHW = torch.from_numpy(distances).to(planes_NKHW) * (1 - scores.truth.ignored_N1HW)
    probs_NKHW = planes_NKHW + scores.truth.signs_NKHW * scores.errors_NKHW
    return scores.truth.mean_cost(probs_NKHW * distances_NKHW)


def signed_distances(masks_NKHW: np.ndarray) -> np.ndarray:
    """Distance of each pixel's centre from the border, below 0 inside, as a share of the diagonal of the tile.

    The exact Euclidean distance to the nearest pixel of the other kind, less half a pixel. The border of an empty
    mask is as far as can be: 1 everywhere, so that it teaches; of a full one -1.

    Args:
        masks_NKHW: uint8, 0 or 1.

    Returns:
        float32 (N, K, H, W), in [-1, 1].
    """
    distances_NKHW = np.empty(masks_NKHW.shape, np.float32)
    for place in np.ndindex(masks_NKHW.shape[:2]):
        mask_HW = np.ascontiguousarray(masks_NKHW[place])
        if mask_HW.min() == mask_HW.max():
            distances_NKHW[place] = 1 - 2 * int(mask_HW.flat[0])
            continue
        outside_HW = cv2.distanceTransform(1 - mask_HW, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        inside_HW = cv2.distanceTransform(mask_HW, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        signs_HW = 1 - 2 * mask_HW.astype(np.float32)
        distances_NKHW[place] = (outside_HW - inside_HW - 0.5 * signs_HW) / np.hypot(*mask_HW.shape)
    return distances_NKHW
