"""Networks that see objects by rule: grey levels are labels, so that what must be found is known to the pixel."""

import cv2
import torch

from histofold.models.instances.finds import TileFinds

LEVELS = 5
"""Grey level between labels: label n is drawn as 5 * n, red alone."""


def labels_of(images_NCHW):
    """The labels that images show, int64 (N, H, W)."""
    return torch.round(images_NCHW[:, 0].float() * 255 / LEVELS).long()


class ExactDetector(torch.nn.Module):
    """Finds each label of a tile as a map of the whole tile, as Mask2Former does.

    Args:
        score: Score of a label: the product with 0.01 times the label, from 1 down.
    """

    def __init__(self, score=1.0, shift=0):
        super().__init__()
        self.score, self.shift = score, shift
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, images_NCHW):
        return [self.finds(labels_HW) for labels_HW in labels_of(images_NCHW)]

    def finds(self, labels_HW):
        labels_M = torch.unique(labels_HW[labels_HW > 0])
        masks_MHW = (labels_HW == labels_M[:, None, None]).float().roll(self.shift, 2)
        boxes_M4 = torch.tensor([[0.0, 0.0, *labels_HW.shape]]).repeat(len(labels_M), 1)
        return TileFinds(boxes_M4, self.score * (1 - 0.01 * labels_M), masks_MHW)


class BlobDetector(ExactDetector):
    """Finds each bright component of the red channel."""

    def finds(self, labels_HW):
        bright_HW = (labels_HW > 25).to(torch.uint8).numpy()
        _, blobs_HW = cv2.connectedComponents(bright_HW, connectivity=4)
        return super().finds(torch.from_numpy(blobs_HW))


class BoxDetector(ExactDetector):
    """Finds each label's box, with a mask that fills it; `masks_in` gives full masks, and keeps what it was asked."""

    def __init__(self, score=1.0, shift=0):
        super().__init__(score, shift)
        self.asked = []

    def finds(self, labels_HW):
        labels = torch.unique(labels_HW[labels_HW > 0])
        boxes = []
        for label in labels:
            rows, columns = torch.where(labels_HW == label)
            boxes.append([rows.min(), columns.min() + self.shift, rows.max() + 1, columns.max() + 1 + self.shift])
        boxes_M4 = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        return TileFinds(boxes_M4, self.score * (1 - 0.01 * labels), torch.ones(len(labels), 28, 28))

    def masks_in(self, images_NCHW, boxes):
        self.asked.append([part.clone() for part in boxes])
        return [torch.ones(len(part), 28, 28) for part in boxes]
