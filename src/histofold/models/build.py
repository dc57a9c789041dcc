"""From an architecture's name and arguments to a network; those of other libraries are built here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
from torch import nn
from torch.nn.functional import interpolate

from histofold.core.faults import InputError
from histofold.models.dpt import build_dpt
from histofold.models.film import condition_on_organs
from histofold.models.pyramid_unet import build_effunet, build_unext50
from histofold.models.segformer import build_segformer
from histofold.models.shells import AnySize, SoftmaxLogits
from histofold.schema.encoders import ONE_SIDE, UNDILATED, WINDOWED, built_side
from histofold.schema.network import DEFAULT_ENCODERS, DILATED, FIVE_STAGED, DenseArchitecture, check_encoder_name

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
    from torchvision.models import ResNet101_Weights
    from torchvision.models.segmentation import DeepLabV3_ResNet101_Weights

    # By themselves torchvision's networks unpickle whatever lies in the cache of downloads.
    loading = {"progress": False, "check_hash": True, "weights_only": True}
    if name == VOC_WEIGHTS:
        whole = DeepLabV3_ResNet101_Weights.COCO_WITH_VOC_LABELS_V1.get_state_dict(**loading)
        kept = {key: tensor for key, tensor in whole.items() if not key.startswith("aux_classifier.")}
        return {key.replace("backbone.", "encoder.", 1): tensor for key, tensor in kept.items()}
    resnet = ResNet101_Weights["IMAGENET1K_V1" if name == "imagenet" else name].get_state_dict(**loading)
    return {key: tensor for key, tensor in resnet.items() if not key.startswith("fc.")}


UNUSED_ENCODER_PARTS = ("_conv_head", "_bn1", "conv_head", "bn2")
"""What EfficientNets of smp keep for a classifier: no feature map passes it."""

PAN_MULTIPLE = 128
"""PAN halves the encoder's map of stride 16 three times more."""


def build_smp_net(
    architecture: str,
    encoder: str,
    classes: int = 1,
    decoder_channels: Sequence[int] | None = None,
    output_stride: int | None = None,
    atrous_rates: Sequence[int] | None = None,
    image_size: int = 0,
) -> nn.Module:
    """Build a network of smp that takes images of any size.

    U-Net (Ronneberger 2015, arXiv:1505.04597), U-Net++ (Zhou 2018, arXiv:1807.10165), MA-Net (Fan 2020,
    https://doi.org/10.1109/ACCESS.2020.3025372), FPN (Kirillov 2019, arXiv:1901.02446), PAN (Li 2018,
    arXiv:1805.10180), DeepLabV3 (Chen 2017, arXiv:1706.05587), DeepLabV3+ (Chen 2018, arXiv:1802.02611) and UPerNet
    (Xiao 2018, arXiv:1807.10221). DeepLab, PAN and UPerNet normalise a globally pooled map: a batch of one cannot be
    trained on.

    Args:
        architecture: unet, unetplusplus, manet, fpn, pan, deeplabv3, deeplabv3plus or upernet.
        encoder: Any of smp, those of timm as tu-NAME.
        classes: Number of output channels.
        decoder_channels: Channels of the five decoder stages, coarse to fine (unet, unetplusplus and manet).
        output_stride: Pixels a side of the dilated encoder's last map, 8 or 16 (deeplabv3 and deeplabv3plus).
        atrous_rates: Spacing of the pyramid's three dilated convolutions, in features of that map (likewise).
        image_size: Side in pixels that the encoder is built for where it is built for one; 0: its own. The network
            takes no larger images than that where the encoder takes no other side.

    Raises:
        ValueError: If the encoder cannot be used here, or the argument belongs to another network.
    """
    import segmentation_models_pytorch as smp

    _refuse_encoder(architecture, encoder)
    kinds = {
        "unet": smp.Unet,
        "unetplusplus": smp.UnetPlusPlus,
        "manet": smp.MAnet,
        "fpn": smp.FPN,
        "pan": smp.PAN,
        "deeplabv3": smp.DeepLabV3,
        "deeplabv3plus": smp.DeepLabV3Plus,
        "upernet": smp.UPerNet,
    }
    settings: dict[str, Any] = {}
    if (output_stride is not None or atrous_rates is not None) and architecture not in DILATED:
        raise ValueError("output_stride and atrous_rates belong to deeplabv3 and deeplabv3plus")
    if output_stride is not None:
        settings["encoder_output_stride"] = output_stride
    if atrous_rates is not None:
        settings["decoder_atrous_rates"] = list(atrous_rates)
    if decoder_channels is not None:
        if architecture not in FIVE_STAGED:
            raise ValueError("decoder_channels belong to unet, unetplusplus and manet")
        settings["decoder_channels"] = list(decoder_channels)
    settings |= encoder_settings(encoder, image_size)
    net = kinds[architecture](encoder, encoder_weights=None, classes=classes, **settings)
    for name in UNUSED_ENCODER_PARTS:
        part = net.encoder._modules.get(name)
        if encoder.startswith(("efficientnet-", "timm-")) and part is not None:
            part.requires_grad_(False)  # it stays for the state dict, but several processes would wait for its gradient
    for part in net.encoder.modules():
        if encoder.startswith("tu-coat_") and hasattr(part, "set_input_size"):
            part.register_forward_pre_hook(_take_size)
    multiple = PAN_MULTIPLE if architecture == "pan" else net.encoder.output_stride
    side = settings.get("img_size", multiple)
    return AnySize(net, side, side if encoder.startswith(ONE_SIDE) else None)


def _take_size(patches: Any, arguments: tuple[torch.Tensor, ...]) -> None:
    """Of CoaT, whose blocks ask its patches for the map's size: what a pass begins with is its size."""
    patches.set_input_size(tuple(arguments[0].shape[2:]))


def encoder_settings(encoder: str, image_size: int = 0) -> dict[str, Any]:
    """What an encoder of timm is built with, besides its name, so that it takes the images that it will see.

    Args:
        encoder: Its name.
        image_size: The side in pixels that it is built for; 0: its own.
    """
    if encoder.startswith("tu-swin"):
        return {"strict_img_size": False}  # else only the size that the name ends in
    return {"img_size": built_side(encoder, image_size)} if encoder.startswith((*WINDOWED, *ONE_SIDE)) else {}


def _refuse_encoder(architecture: str, encoder: str) -> None:
    if encoder.startswith("mit_b"):
        raise ValueError(f"{encoder} of smp is not free for every use: take architecture segformer, which has its own")
    if encoder.startswith(UNDILATED) and architecture in (*DILATED, "pan"):
        raise ValueError(f"{encoder} cannot be dilated as {architecture} needs it: take upernet, or a resnet")


def broken_tensors(state: Mapping[str, torch.Tensor]) -> list[str]:
    """The names of tensors that hold NaN or infinity: a network with one of them says nothing."""
    return [name for name, tensor in state.items() if tensor.is_floating_point() and not bool(tensor.isfinite().all())]


PYRAMID_STRIDE = 32
SLICE_COUNTS = (1, 3, 5)


BUILD_ERRORS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError)
"""What libraries make of arguments that do not go together."""


def build_model(architecture: str, arguments: Mapping[str, Any]) -> torch.nn.Module:
    """Build a network that maps NCHW float images of any size to NKHW logits of the same height and width.

    Images have 3 channels, or as many as the argument `slices` says. Its `encoder` is called once in a forward pass and
    returns NCHW feature maps, finest first. With softmax classes it gives N(K+1)HW logits in training, background
    first. Its weights are random, see `load_encoder_weights` for others: building never touches the internet.

    Args:
        architecture: One of `DenseArchitecture`; `build_network` knows detectors too.
        arguments: As `ModelConfig.arguments` gives and the manifest holds them: classes, encoder, ...

    Raises:
        InputError: If the architecture or an argument is unknown.

    Example:
        >>> model = build_model("unet", {"encoder": "resnet18", "classes": 2}).eval()
        >>> model(torch.zeros(1, 3, 75, 50)).shape
        torch.Size([1, 2, 75, 50])
    """
    known = get_args(DenseArchitecture)
    if architecture not in known:
        raise InputError(f"architecture={architecture!r} is unknown: known are {', '.join(known)}")
    settings = dict(arguments)
    slices, organs = settings.pop("slices", 3), settings.pop("organs", ())
    activation = settings.pop("activation", "sigmoid")
    if activation not in ("sigmoid", "softmax"):
        raise InputError(f"activation={activation!r} is unknown: known are sigmoid, softmax")
    if slices not in SLICE_COUNTS:
        raise InputError(f"slices={slices!r} is unknown: known are {', '.join(map(str, SLICE_COUNTS))}")
    try:
        check_encoder_name(settings.get("encoder", ""))
        if activation == "softmax":
            settings["classes"] = settings.get("classes", 1) + 1
        net = _build_plain(architecture, **settings)
        if organs:
            condition_on_organs(net.net, organs)
    except BUILD_ERRORS as error:
        raise InputError(f"{architecture} cannot be built with {dict(arguments)}: {error}") from error
    if slices != 3:
        _widen_first_layer(net, slices)
    return SoftmaxLogits(net) if activation == "softmax" else net


def first_layer(module: torch.nn.Module) -> nn.Conv2d:
    """The convolution of a network, or of its encoder, that sees the image."""
    return next(part for part in module.modules() if isinstance(part, nn.Conv2d))


def _widen_first_layer(net: torch.nn.Module, channels: int) -> None:
    """Let a network take images of another number of channels; its first layer begins at random."""
    layer = first_layer(net)
    layer.in_channels = channels
    layer.weight = nn.Parameter(layer.weight.new_empty(len(layer.weight), channels, *layer.kernel_size))
    layer.reset_parameters()


def adapted_weight(weight_OCHW: torch.Tensor, channels: int) -> torch.Tensor:
    """A first layer's weight for another number of channels, which like slices are all of one kind.

    Each of them gets the mean over the channels that were, in such a strength that an image whose channels are alike
    gives what it gave before: as Carreira and Zisserman inflate networks of pictures (2017, arXiv:1705.07750).

    Args:
        weight_OCHW: Of O features and C channels.
        channels: How many there shall be.
    """
    count = weight_OCHW.shape[1]
    return weight_OCHW.mean(dim=1, keepdim=True).repeat(1, channels, 1, 1) * (count / channels)


def _build_plain(architecture: str, **settings: Any) -> torch.nn.Module:
    """A network that gives as many logits as `classes` says."""
    if architecture == "unext50":
        return AnySize(build_unext50(**settings), PYRAMID_STRIDE)
    if architecture.startswith("effunet-"):
        return AnySize(build_effunet(architecture.replace("effunet", "efficientnet"), **settings), PYRAMID_STRIDE)
    if architecture == "deeplabv3_resnet101":
        return build_torchvision_deeplab(**settings)
    settings.setdefault("encoder", DEFAULT_ENCODERS[architecture])
    if architecture == "segformer":
        return build_segformer(**settings)
    if architecture == "dpt":
        return build_dpt(**settings)
    return build_smp_net(architecture, **settings)
