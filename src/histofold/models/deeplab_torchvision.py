"""DeepLabV3 of torchvision on ResNet-101, with the 21-class head of its published weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import interpolate

from histofold.models.shells import AnySize

HEAD_CLASSES = 21
VOC_WEIGHTS = "voc"


class DilatedResnet(nn.Module):
    """ResNet-101 (He et al. 2015, arXiv:1512.03385) whose last two stages are dilated instead of strided."""

    def __init__(self) -> None:
        from torchvision.models import resnet101

        super().__init__()
        resnet = resnet101(weights=None, replace_stride_with_dilation=[False, True, True])
        self.conv1, self.bn1, self.relu, self.maxpool = resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool
        self.layer1, self.layer2 = resnet.layer1, resnet.layer2
        self.layer3, self.layer4 = resnet.layer3, resnet.layer4

    def forward(self, images_NCHW: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Images (N, 3, H, W) to maps of 64, 256, 512, 1024 and 2048 channels at 1/2, 1/4, 1/8, 1/8 and 1/8."""
        maps = [self.relu(self.bn1(self.conv1(images_NCHW)))]
        features = self.maxpool(maps[0])
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            features = stage(features)
            maps.append(features)
        return tuple(maps)


class TorchvisionDeepLab(nn.Module):
    """DeepLabV3 (Chen et al. 2017, arXiv:1706.05587) whose masks are some channels of a 21-class head.

    Args:
        first: The first of these channels.
        count: Their number K.
    """

    STRIDE = 8

    def __init__(self, first: int, count: int) -> None:
        from torchvision.models.segmentation.deeplabv3 import DeepLabHead

        super().__init__()
        self.encoder = DilatedResnet()
        self.classifier = DeepLabHead(2048, HEAD_CLASSES)
        self.first, self.count = first, count

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) to logits (N, K, H, W)."""
        logits_NKHW = self.classifier(self.encoder(images_NCHW)[-1])[:, self.first : self.first + self.count]
        return interpolate(logits_NKHW, images_NCHW.shape[2:], mode="bilinear", align_corners=False)


def build_torchvision_deeplab(classes: int = 1, head_channel: int = 0) -> torch.nn.Module:
    """DeepLabV3 of torchvision on ResNet-101, without the auxiliary classifier.

    Args:
        classes: Number of output channels K: those from `head_channel` on, in order.
        head_channel: The first of the head's 21 channels that is a mask.

    Raises:
        ValueError: If the head has not that many channels.
    """
    if not 0 <= head_channel <= HEAD_CLASSES - classes:
        raise ValueError(f"{classes} channels from {head_channel} on: the head has {HEAD_CLASSES}, lower head_channel")
    return AnySize(TorchvisionDeepLab(head_channel, classes), TorchvisionDeepLab.STRIDE)


def deeplab_hub_state(name: str) -> dict[str, torch.Tensor]:
    """Tensors of torchvision's weights, under the names of a `TorchvisionDeepLab` (voc) or of its encoder.

    Args:
        name: `imagenet` (those that torchvision starts this network from), `voc` (trained on COCO with the labels of
            VOC), or torchvision's own name of ResNet-101 weights, as IMAGENET1K_V2.
    """
    from torchvision.models import resnet101
    from torchvision.models.segmentation import deeplabv3_resnet101

    if name == VOC_WEIGHTS:
        whole = deeplabv3_resnet101(weights="COCO_WITH_VOC_LABELS_V1", progress=False).state_dict()
        kept = {key: tensor for key, tensor in whole.items() if not key.startswith("aux_classifier.")}
        return {key.replace("backbone.", "encoder.", 1): tensor for key, tensor in kept.items()}
    resnet = resnet101(weights="IMAGENET1K_V1" if name == "imagenet" else name, progress=False)
    return {key: tensor for key, tensor in resnet.state_dict().items() if not key.startswith("fc.")}
