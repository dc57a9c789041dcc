"""Segment Anything asked: by a grid of points, by boxes or by points of a tile; its answers as a map or as objects.

Kirillov et al. 2023, arXiv:2304.02643; the second version, Ravi et al. 2024, arXiv:2408.00714. Both on the
implementation of Hugging Face transformers (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.functional import interpolate, pad

from histofold.core.faults import InputError
from histofold.core.objects.fusion import box_nms
from histofold.models.instances.finds import TileFinds
from histofold.schema.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from histofold.schema.sam import SamConfig

PROMPTS_AT_ONCE = 64
"""As published: masks of so many points lie in memory at once."""
MASKS_AT_ONCE = 16
"""The same at the tile's size."""
STABILITY_LOGIT = 1.0
"""As published: how far the cut is moved both ways to see how stable a mask is."""
BOX_NMS_IOU = 0.7
"""As published: of segments whose boxes overlap by more the one of the highest score stays."""
LEAST_SCORE = 1e-3
"""What a score that the network puts lower counts as: finds have one above 0."""


class Segments(NamedTuple):
    """What was found in one tile."""

    logits: torch.Tensor
    """float32 (M, s, s): over the network's square."""
    scores: torch.Tensor
    """float32 (M,): the IoU that the network expects, `LEAST_SCORE` to 1."""


@dataclass(frozen=True)
class SquareFrame:
    """How a tile lies in the square that the network sees: at its upper left, scaled."""

    tile_hw: tuple[int, int]
    """Height and width of the tile."""
    square_hw: tuple[int, int]
    """Pixels of the tile's scale that the square covers."""
    side: int
    """Side of the square in the network's pixels."""

    @property
    def scale_yx(self) -> tuple[float, float]:
        """The network's pixels for one of the tile."""
        return self.side / self.square_hw[0], self.side / self.square_hw[1]

    def placed(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Normalised tiles in the square, what lies beside them 0: resized as the published networks are given them."""
        size = [max(1, round(length * scale)) for length, scale in zip(self.tile_hw, self.scale_yx, strict=True)]
        if tuple(size) != self.tile_hw:
            images_NCHW = interpolate(images_NCHW, size, mode="bilinear", align_corners=False, antialias=True)
        return pad(images_NCHW, (0, self.side - size[1], 0, self.side - size[0]))

    def coordinates(self, prompts_MK: np.ndarray, device: torch.device) -> torch.Tensor:
        """Points (y, x) or boxes (y0, x0, y1, x1) of the tile as (x, y, ...) of the square, float32.

        The network adds half a pixel, since its own coordinates count middles of pixels from 0.
        """
        pairs_MP2 = prompts_MK.reshape(len(prompts_MK), prompts_MK.shape[1] // 2, 2) * self.scale_yx - 0.5
        flat_MK = pairs_MP2[..., ::-1].reshape(prompts_MK.shape)
        return torch.from_numpy(np.ascontiguousarray(flat_MK, np.float32)).to(device)

    def cells_hw(self, cells: int) -> tuple[int, int]:
        """Cells of a mask over the square that lie on the tile, at least in part."""
        height, width = (
            min(cells, -(-length * cells // square))
            for length, square in zip(self.tile_hw, self.square_hw, strict=True)
        )
        return height, width


class Sam(nn.Module):
    """Segment Anything with the contract of networks: of a grid a logit for each pixel, or `TileFinds`.

    A pixel's value is the score of the best segment that holds it, so that a threshold drops segments; logits of it
    are given, as of any network.

    Args:
        net: A `SamModel` or `Sam2Model`, as `load_sam` gives it.
        config: How it is asked.
        finds_objects: Give objects instead of a map.
    """

    def __init__(self, net: nn.Module, config: SamConfig, finds_objects: bool) -> None:
        super().__init__()
        self.net, self.config, self.finds_objects = net, config, finds_objects

    def forward(
        self,
        images_NCHW: torch.Tensor,
        prompts: Sequence[np.ndarray] | None = None,
        finds_objects: bool | None = None,
    ) -> Any:
        """Segment tiles.

        Args:
            images_NCHW: Tiles of 3 channels, or of one that is grey, normalised by ImageNet's moments, float32.
            prompts: Of each tile boxes (M, 4) as (y0, x0, y1, x1), or points (M, 2) as (y, x), in pixels of the tile
                counted from its corner; each gives one segment. None: a grid, if the settings say so.
            finds_objects: What to give; None: what the network was made for.

        Returns:
            Logits (N, 1, H, W), or a list of `TileFinds`.

        Raises:
            InputError: If there are no prompts and the settings ask for those of the truth.
        """
        if prompts is None and self.config.prompts != "grid":
            rule = "sam is prompted by the truth of held-out slides, and this image has none"
            raise InputError(f"{rule}: write model.sam.prompts = 'grid'")
        images_NCHW = _coloured(images_NCHW)
        frame = self._frame((images_NCHW.shape[2], images_NCHW.shape[3]))
        embedded = self.net.get_image_embeddings(frame.placed(images_NCHW))  # type: ignore[operator]
        answers = []
        # Positions in half precision would be off by pixels.
        with torch.autocast(images_NCHW.device.type, enabled=False):
            for place in range(len(images_NCHW)):
                asked = None if prompts is None else prompts[place]
                answers.append(self._asked(_of_image(embedded, place), frame, asked))
        if self.finds_objects if finds_objects is None else finds_objects:
            return [_finds(segments, frame, one_a_box=prompts is None) for segments in answers]
        return torch.stack([_score_logits(segments, frame) for segments in answers])

    def _frame(self, tile_hw: tuple[int, int]) -> SquareFrame:
        """The first version sees a tile in its proportions, the second one stretched to the square."""
        config: Any = self.net.config
        square_hw = (max(tile_hw),) * 2 if config.model_type == "sam" else tile_hw
        return SquareFrame(tile_hw, square_hw, config.prompt_encoder_config.image_size)

    def _asked(self, embedded: Any, frame: SquareFrame, prompts_MK: np.ndarray | None) -> Segments:
        """What the network answers to the prompts of one tile: one segment each, or those of the grid that count."""
        asked_MK = _grid_points(frame.tile_hw, self.config.points_per_side) if prompts_MK is None else prompts_MK
        device = next(self.parameters()).device
        coordinates_MK = frame.coordinates(asked_MK, device)
        parts = [Segments(torch.zeros(0, 1, 1, device=device), torch.zeros(0, device=device))]
        for chunk_MK in coordinates_MK.split(PROMPTS_AT_ONCE) if len(coordinates_MK) else ():
            logits_MTss, scores_MT = self._decoded(embedded, chunk_MK)
            if prompts_MK is None:
                parts.append(self._that_count(logits_MTss.flatten(0, 1), scores_MT.flatten(), frame))
            else:
                best_M = scores_MT.argmax(dim=1)
                each_M = torch.arange(len(best_M), device=device)
                parts.append(Segments(logits_MTss[each_M, best_M], scores_MT[each_M, best_M]))
        filled = [part for part in parts if len(part.scores)] or parts[:1]
        logits_Mss, scores_M = (torch.cat(column) for column in zip(*filled, strict=True))
        return Segments(logits_Mss, scores_M.clamp(LEAST_SCORE, 1))

    def _decoded(self, embedded: Any, coordinates_MK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each box one mask, of each point three: logits (M, T, s, s) and expected IoU (M, T)."""
        if coordinates_MK.shape[1] == 4:
            asked = {"input_boxes": coordinates_MK[None], "multimask_output": False}
        else:
            labels = torch.ones((1, len(coordinates_MK), 1), dtype=torch.int, device=coordinates_MK.device)
            points = coordinates_MK[None, :, None]
            asked = {"input_points": points, "input_labels": labels, "multimask_output": True}
        answer = self.net(image_embeddings=embedded, **asked)
        return answer.pred_masks[0].float(), answer.iou_scores[0].float()

    def _that_count(self, logits_Mss: torch.Tensor, scores_M: torch.Tensor, frame: SquareFrame) -> Segments:
        """The segments of a grid that are sure enough, stable enough and no background."""
        height, width = frame.cells_hw(logits_Mss.shape[1])
        seen_Mhw = logits_Mss[:, :height, :width]
        areas_M, inner_M, outer_M = (
            (seen_Mhw > cut).sum(dim=(1, 2)) for cut in (0.0, STABILITY_LOGIT, -STABILITY_LOGIT)
        )
        kept_M = (scores_M >= self.config.min_iou) & (areas_M > 0)
        kept_M &= inner_M >= self.config.min_stability * outer_M
        kept_M &= areas_M <= self.config.max_area_share * height * width
        kept_M |= ~scores_M.isfinite()  # whoever calls sees it, and computes again in full precision
        return Segments(logits_Mss[kept_M], scores_M[kept_M])


def _coloured(images_NCHW: torch.Tensor) -> torch.Tensor:
    """Grey tiles, normalised by the mean of the colours' moments, as colours that are normalised each by its own."""
    if images_NCHW.shape[1] == 3:
        return images_NCHW
    mean_311, std_311 = (images_NCHW.new_tensor(part)[:, None, None] for part in (IMAGENET_MEAN, IMAGENET_STD))
    return (images_NCHW * std_311.mean() + mean_311.mean() - mean_311) / std_311


def _of_image(embedded: Any, place: int) -> Any:
    """The embedding of one image: the second version has one at each of three scales."""
    if isinstance(embedded, torch.Tensor):
        return embedded[place : place + 1].float()
    return [part[place : place + 1].float() for part in embedded]


def _grid_points(tile_hw: tuple[int, int], per_side: int) -> np.ndarray:
    """Points (y, x) in the middles of the cells of an even grid, (per_side ** 2, 2)."""
    shares = (np.arange(per_side) + 0.5) / per_side
    return np.stack(np.meshgrid(shares * tile_hw[0], shares * tile_hw[1], indexing="ij"), axis=-1).reshape(-1, 2)


def _score_logits(segments: Segments, frame: SquareFrame) -> torch.Tensor:
    """The logit of the score of the best segment at each pixel of the tile, (1, H, W)."""
    best_HW = segments.scores.new_zeros(frame.tile_hw)
    for start in range(0, len(segments.scores), MASKS_AT_ONCE):
        some = slice(start, start + MASKS_AT_ONCE)
        over_N1HW = interpolate(segments.logits[some, None], frame.square_hw, mode="bilinear", align_corners=False)
        masks_MHW = over_N1HW[:, 0, : frame.tile_hw[0], : frame.tile_hw[1]] > 0
        best_HW = torch.maximum(best_HW, (masks_MHW * segments.scores[some, None, None]).amax(dim=0))
    return torch.logit(best_HW, eps=1e-6)[None]


def _finds(segments: Segments, frame: SquareFrame, one_a_box: bool) -> TileFinds:
    """Segments as objects of the tile; where asked, of those that have nearly one box the best alone."""
    if one_a_box and torch.isfinite(segments.scores).all():
        boxes_M4 = _cell_boxes(segments.logits > 0).cpu().numpy()
        kept = torch.from_numpy(box_nms(boxes_M4, segments.scores.cpu().numpy(), BOX_NMS_IOU))
        segments = Segments(*(part[kept.to(part.device)] for part in segments))
    square_14 = segments.scores.new_tensor([[0, 0, *frame.square_hw]])
    return TileFinds(square_14.expand(len(segments.scores), 4), segments.scores, segments.logits.sigmoid())


def _cell_boxes(inside_Mss: torch.Tensor) -> torch.Tensor:
    """The box of each mask in cells, (M, 4) as (y0, x0, y1, x1)."""
    edges = []
    for axis in (2, 1):
        lines_Ms = inside_Mss.any(dim=axis).int()
        edges.append((lines_Ms.argmax(dim=1), lines_Ms.shape[1] - lines_Ms.flip(1).argmax(dim=1)))
    (top, bottom), (left, right) = edges
    return torch.stack([top, left, bottom, right], dim=1)
