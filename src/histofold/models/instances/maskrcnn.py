"""Mask R-CNN (He et al. 2017, arXiv:1703.06870) of torchvision's parts, for many small objects of one class.

Its tensors have torchvision's names. It differs where torchvision's network serves photographs: images are neither
resized nor normalised, masks stay in their boxes, and features and mask targets are sampled at pixel centres, as
detectron2 does ("aligned"), since half a pixel counts in an object of sixteen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from histofold.models.instances.anchors import proposal_network
from histofold.models.instances.finds import (
    BOXES_AT_ONCE,
    MASKS_AT_ONCE,
    TARGETS_AT_ONCE,
    TileFinds,
    check_images,
    no_numbers,
    swap_xy,
)
from histofold.schema.network import DetectorConfig


class RoiPool(nn.Module):
    """Features of boxes on a grid each, from the level of the pyramid that suits the box's size.

    Levels as in the FPN paper (Lin et al. 2016, arXiv:1612.03144, equation 1): a box of 224 px is of stride 16.

    Args:
        strides: Pixels a feature of each level, finest first.
        side: Features a side of the grid.
        samples: Points a side that are averaged for a feature; 0: as many as lie in it.
    """

    def __init__(self, strides: Sequence[int], side: int, samples: int) -> None:
        super().__init__()
        self.strides, self.side, self.samples = tuple(strides), side, samples

    def forward(self, levels: Sequence[torch.Tensor], boxes: Sequence[torch.Tensor]) -> torch.Tensor:
        """Features (M, C, side, side) of the boxes (x0, y0, x1, y1) of all images, image by image."""
        from torchvision.ops import box_area, roi_align

        rois_M5 = torch.cat([torch.cat([b.new_full((len(b), 1), i), b], dim=1) for i, b in enumerate(boxes)])
        octaves = torch.log2(box_area(rois_M5[:, 1:]).sqrt() / 224 + 1e-8).floor().long()
        places = (octaves + 2).clamp(0, len(self.strides) - 1)
        pooled = levels[0].new_zeros(len(rois_M5), levels[0].shape[1], self.side, self.side)
        for place, stride in enumerate(self.strides):
            chosen = torch.where(places == place)[0]
            grid = (self.side, self.side)
            found = roi_align(levels[place], rois_M5[chosen], grid, 1 / stride, self.samples, aligned=True)
            pooled = pooled.index_put((chosen,), found.to(pooled.dtype))
        return pooled


class MaskRcnn(nn.Module):
    """Mask R-CNN of one class.

    Args:
        backbone: Maps images to named feature maps, finest first; its `body` is the encoder.
        rpn: torchvision's `RegionProposalNetwork`.
        roi_heads: torchvision's `RoIHeads`, of which the parts are called here.
    """

    def __init__(self, backbone: nn.Module, rpn: nn.Module, roi_heads: nn.Module) -> None:
        super().__init__()
        self.backbone, self.rpn, self.roi_heads = backbone, rpn, roi_heads

    @property
    def encoder(self) -> nn.Module:
        """The part whose weights may be pretrained."""
        return self.backbone.body  # type: ignore[return-value]

    def forward(self, images_NCHW: torch.Tensor, targets: list[dict[str, torch.Tensor]] | None = None) -> Any:
        """Losses by name in training, from targets (boxes x0 y0 x1 y1, labels, masks); else a `TileFinds` an image."""
        levels = self._levels(images_NCHW)
        if not (self.training or all(level.isfinite().all() for level in levels.values())):
            shape_hw = images_NCHW.shape[2:]  # what is no number would drop out of every comparison
            return [no_numbers(shape_hw, next(iter(levels.values()))) for _ in images_NCHW]
        proposals, losses = self.rpn(self._image_list(images_NCHW), levels, targets)
        if self.training:
            assert targets is not None
            return {**losses, **self._head_losses(list(levels.values()), proposals, targets)}
        return self._finds(list(levels.values()), proposals, tuple(images_NCHW.shape[2:]))

    def masks_in(self, images_NCHW: torch.Tensor, boxes: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Mask probabilities (M, h, w) of each image in boxes (y0, x0, y1, x1) that others have found."""
        return self._masks(list(self._levels(images_NCHW).values()), [swap_xy(b).to(images_NCHW) for b in boxes])

    def box_features(self, levels: Sequence[torch.Tensor], boxes: Sequence[torch.Tensor]) -> torch.Tensor:
        """What the box predictor reads of each box."""
        return self.roi_heads.box_head(self.roi_heads.box_roi_pool(levels, boxes))  # type: ignore[operator]

    def mask_features(self, levels: Sequence[torch.Tensor], boxes: Sequence[torch.Tensor]) -> torch.Tensor:
        """What the mask predictor reads of each box."""
        return self.roi_heads.mask_head(self.roi_heads.mask_roi_pool(levels, boxes))  # type: ignore[operator]

    def _levels(self, images_NCHW: torch.Tensor) -> dict[str, torch.Tensor]:
        """Feature maps by name; float32, for anchors and boxes take their type, and bf16 cannot count to 512."""
        check_images(images_NCHW)
        return {name: level.float() for name, level in self.backbone(images_NCHW).items()}

    @staticmethod
    def _image_list(images_NCHW: torch.Tensor) -> Any:
        from torchvision.models.detection.image_list import ImageList

        return ImageList(images_NCHW, [(images_NCHW.shape[2], images_NCHW.shape[3])] * len(images_NCHW))

    def _head_losses(
        self,
        levels: Sequence[torch.Tensor],
        proposals: list[torch.Tensor],
        targets: list[dict[str, torch.Tensor]],
    ) -> dict[str, torch.Tensor]:
        """Losses of class, box and mask on a sample of the proposals."""
        from torchvision.models.detection.roi_heads import fastrcnn_loss

        heads: Any = self.roi_heads
        boxes, matched, labels, deltas = heads.select_training_samples(proposals, targets)
        features = self.box_features(levels, boxes)
        class_logits, box_deltas = (part.float() for part in heads.box_predictor(features))
        class_loss, box_loss = fastrcnn_loss(class_logits, box_deltas, labels, deltas)
        positive = [label > 0 for label in labels]
        empty = not torch.cat(positive).any()
        if empty:  # a part that is never called has no gradient, and normalisation cannot count no boxes
            positive[0][0] = True
        logits = heads.mask_predictor(self._positive_features(levels, boxes, features, positive))[:, 1].float()
        if empty:
            mask_loss = logits.sum() * 0
        else:
            kept = zip(targets, boxes, matched, positive, strict=True)
            wanted = [mask_targets(t["masks"], b[p], m[p], logits.shape[-1]) for t, b, m, p in kept]
            mask_loss = nn.functional.binary_cross_entropy_with_logits(logits, torch.cat(wanted))
        return {"loss_classifier": class_loss, "loss_box_reg": box_loss, "loss_mask": mask_loss}

    def _positive_features(
        self,
        levels: Sequence[torch.Tensor],
        boxes: Sequence[torch.Tensor],
        features: torch.Tensor,
        positive: Sequence[torch.Tensor],
    ) -> torch.Tensor:
        """What the mask predictor reads of the boxes that hold an object; `features` are those of all boxes."""
        return self.mask_features(levels, [b[p] for b, p in zip(boxes, positive, strict=True)])

    def _finds(
        self, levels: Sequence[torch.Tensor], proposals: list[torch.Tensor], shape_hw: tuple[int, ...]
    ) -> list[TileFinds]:
        """Boxes after suppression, and their masks."""
        heads: Any = self.roi_heads
        answers = [
            heads.box_predictor(self.box_features(level_of_image, [some]))
            for level_of_image, found in zip(_by_image(levels), proposals, strict=True)
            for some in found.split(BOXES_AT_ONCE)
        ]
        parts = [torch.cat(part).float() for part in zip(*answers, strict=True)]
        boxes, scores, _ = heads.postprocess_detections(*parts, proposals, [shape_hw] * len(proposals))
        masks = self._masks(levels, boxes)
        return [TileFinds(swap_xy(b), s, m) for b, s, m in zip(boxes, scores, masks, strict=True)]

    def _masks(self, levels: Sequence[torch.Tensor], boxes: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Mask probabilities (M, h, w) in each image's boxes (x0, y0, x1, y1)."""
        return [
            torch.cat([self._masks_of(level_of_image, part) for part in found.split(MASKS_AT_ONCE)])
            for level_of_image, found in zip(_by_image(levels), boxes, strict=True)
        ]

    def _masks_of(self, levels: Sequence[torch.Tensor], boxes_M4: torch.Tensor) -> torch.Tensor:
        """Mask probabilities (M, h, w) in boxes (x0, y0, x1, y1) of one image."""
        heads: Any = self.roi_heads
        return heads.mask_predictor(self.mask_features(levels, [boxes_M4]))[:, 1].float().sigmoid()


def _by_image(levels: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, ...]]:
    """The levels of each image alone."""
    return zip(*(level.split(1) for level in levels), strict=True)


def mask_targets(masks_MHW: torch.Tensor, boxes_M4: torch.Tensor, matched_M: torch.Tensor, side: int) -> torch.Tensor:
    """The part of an object's mask that each box shows, as a grid.

    Args:
        masks_MHW: The objects of the image, uint8.
        boxes_M4: Boxes (x0, y0, x1, y1) in pixels; any number.
        matched_M: The object of each box, int64.
        side: Side of the grid.

    Returns:
        Shares in 0 to 1, float32, of shape (boxes, side, side).
    """
    from torchvision.ops import roi_align

    grids = [boxes_M4.new_zeros(0, side, side)]
    for boxes, matched in zip(boxes_M4.split(TARGETS_AT_ONCE), matched_M.split(TARGETS_AT_ONCE), strict=True):
        order = torch.arange(len(boxes), device=boxes.device).to(boxes)
        rois = torch.cat([order[:, None], boxes], dim=1)
        masks = masks_MHW[matched][:, None].to(boxes)
        grids.append(roi_align(masks, rois, (side, side), 1.0, aligned=True)[:, 0])
    return torch.cat(grids)


class FpnBackbone(nn.Module):
    """A feature pyramid at 1/4 to 1/64 on an encoder of timm.

    Args:
        body: Gives the maps at 1/4, 1/8, 1/16 and 1/32.
        channels: Of these maps.
        width: Channels of the pyramid.
        norm_layer: Makes the normalisation of the pyramid; none, without one.
    """

    def __init__(self, body: nn.Module, channels: list[int], width: int, norm_layer: type[nn.Module] | None) -> None:
        from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(channels, width, LastLevelMaxPool(), norm_layer)

    def forward(self, images_NCHW: torch.Tensor) -> dict[str, torch.Tensor]:
        """The pyramid's maps by name, finest first."""
        return self.fpn({str(place): level for place, level in enumerate(self.body(images_NCHW))})


def build_maskrcnn(encoder: str, config: DetectorConfig) -> nn.Module:
    """Mask R-CNN on a feature pyramid.

    Args:
        encoder: A ResNet of torchvision, or one of timm as tu-NAME.
        config: Its heads, anchors and limits.

    Raises:
        ValueError: If the encoder cannot carry a pyramid.
    """
    from torchvision.models.detection import faster_rcnn, mask_rcnn

    norm, width = nn.BatchNorm2d if config.heads == "v2" else None, config.channels
    box_head = faster_rcnn.TwoMLPHead(width * 7 * 7, 1024)
    if norm:
        box_head = faster_rcnn.FastRCNNConvFCHead((width, 7, 7), [width] * 4, [1024], norm_layer=norm)
    sizes = tuple((size,) for size in config.anchor_sizes)
    return MaskRcnn(
        _fpn_backbone(encoder, config, norm),
        proposal_network(width, sizes, config, depth=2 if norm else 1),
        roi_heads(
            config,
            box_roi_pool=RoiPool((4, 8, 16, 32), 7, 2),
            box_head=box_head,
            box_predictor=faster_rcnn.FastRCNNPredictor(1024, 2),
            mask_roi_pool=RoiPool((4, 8, 16, 32), 14, 2),
            mask_head=mask_rcnn.MaskRCNNHeads(width, (width,) * 4, 1, norm_layer=norm),
            mask_predictor=mask_rcnn.MaskRCNNPredictor(width, width, 2),
        ),
    )


def _fpn_backbone(encoder: str, config: DetectorConfig, pyramid_norm: type[nn.Module] | None) -> nn.Module:
    """An encoder under a feature pyramid, from random weights."""
    if encoder.startswith("tu-"):
        body, channels = _timm_body(encoder.removeprefix("tu-"))
        return FpnBackbone(frozen_where_asked(body, config.norm), channels, config.channels, pyramid_norm)
    from torchvision.models.detection.backbone_utils import BackboneWithFPN

    body = frozen_where_asked(resnet_body(encoder), config.norm)
    narrow = body.fc.in_features // 8  # type: ignore[union-attr, operator]
    stages = {f"layer{place + 1}": str(place) for place in range(4)}
    return BackboneWithFPN(
        body, stages, [narrow << place for place in range(4)], config.channels, norm_layer=pyramid_norm
    )


def resnet_body(encoder: str) -> nn.Module:
    """A ResNet of torchvision from random weights.

    Raises:
        ValueError: If there is none of this name.
    """
    from torchvision.models import resnet

    if encoder not in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"):
        raise ValueError(f"encoder={encoder!r}: known are resnet18, 34, 50, 101, 152, and of timm tu-NAME for maskrcnn")
    return getattr(resnet, encoder)(weights=None)


def _timm_body(name: str) -> tuple[nn.Module, list[int]]:
    """An encoder of timm that gives maps at 1/4 to 1/32, and their channels."""
    import timm

    if name.startswith("swin"):
        raise ValueError(f"tu-{name} gives maps of another layout: take mask2former for a Swin")
    body = timm.create_model(name, pretrained=False, features_only=True)
    places = [place for place, stride in enumerate(body.feature_info.reduction()) if stride >= 4]
    if [body.feature_info.reduction()[place] for place in places] != [4, 8, 16, 32]:
        raise ValueError(f"tu-{name} has maps at {body.feature_info.reduction()}: a pyramid needs 4, 8, 16 and 32")
    body = timm.create_model(name, pretrained=False, features_only=True, out_indices=places)
    return body, body.feature_info.channels()


def frozen_where_asked(body: nn.Module, norm: str) -> nn.Module:
    """An encoder whose batch statistics stay as they were loaded, where norm is `frozen`."""
    from timm.layers import freeze_batch_norm_2d

    return freeze_batch_norm_2d(body) if norm == "frozen" else body


def roi_heads(config: DetectorConfig, **parts: nn.Module | None) -> nn.Module:
    """torchvision's container of heads, with the thresholds of the paper and the limits of the settings."""
    from torchvision.models.detection.roi_heads import RoIHeads

    return RoIHeads(
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=config.sampled_boxes,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=config.score_threshold,
        nms_thresh=config.nms_threshold,
        detections_per_img=config.max_detections,
        **parts,
    )
