"""The network of an experiment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

PyramidArchitecture = Literal[
    "unext50",
    "effunet-b0",
    "effunet-b1",
    "effunet-b2",
    "effunet-b3",
    "effunet-b4",
    "effunet-b5",
    "effunet-b6",
    "effunet-b7",
]
"""The nets of the 2022 team, whose published weights can be imported."""
Architecture = Literal[
    "unet",
    "unetplusplus",
    PyramidArchitecture,
    "deeplabv3",
    "deeplabv3plus",
    "deeplabv3_resnet101",
    "segformer",
    "upernet",
]
DEFAULT_ENCODERS = {
    "unet": "resnet34",
    "unetplusplus": "resnet34",
    "deeplabv3": "resnet50",
    "deeplabv3plus": "resnet50",
    "segformer": "mit_b0",
    "upernet": "tu-convnext_tiny",
}
"""Networks whose encoder is a choice, with the one that they have where none is named."""
DECODER_CHANNELS = (256, 128, 64, 32, 16)
DILATED = ("deeplabv3", "deeplabv3plus")
"""Networks whose encoder's stride and whose pyramid's dilations are a choice."""
ATROUS_RATES = (12, 24, 36)
SHIPPED_ENCODER = "tu-tf_efficientnet_lite0"
"""The encoder whose ImageNet weights a pinned package of requirements.txt carries."""


def needs_smp(architecture: str) -> bool:
    """Whether a network is built with segmentation-models-pytorch, which Kaggle's image lacks."""
    return architecture not in ("segformer", "deeplabv3_resnet101")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    architecture: Architecture = "unet"
    """Network family."""
    encoder: str = ""
    """Encoder of unet, unetplusplus, deeplabv3, deeplabv3plus and upernet: any of segmentation-models-pytorch, timm
    ones as tu-NAME; of segformer: mit_b0 to mit_b5. Empty: the family's usual one. Other networks have their own."""
    encoder_weights: str = "none"
    """`none`; `shipped`: ImageNet weights of tu-tf_efficientnet_lite0, installed with the project; the name of weights
    on the hub (imagenet, ...); or `file:PATH` of a local state dict."""
    decoder_channels: tuple[int, int, int, int, int] = DECODER_CHANNELS
    """Channels of the five decoder stages, coarse to fine (unet and unetplusplus)."""
    output_stride: Literal[0, 8, 16] = 0
    """Pixels a side of the encoder's last map (deeplabv3, deeplabv3plus); 0: the family's own, 8 and 16. At 16 a step
    of deeplabv3 takes less than half the time."""
    atrous_rates: tuple[int, int, int] = ATROUS_RATES
    """Spacing of the pyramid's three dilated convolutions, in features (deeplabv3, deeplabv3plus). The paper takes 12,
    24, 36 at an output stride of 8 and 6, 12, 18 at 16; those that reach past a small crop's map learn nothing."""
    head_channel: int = 0
    """The channel of the 21-class head that is the mask (deeplabv3_resnet101 with one class)."""
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    """`sigmoid`: each class for itself. `softmax`: classes and background exclude each other."""
    init: str = ""
    """`runs/E`: each fold starts from that run's same fold; `file:PATH`: all start from one file; empty: from none.
    The whole network is given, so encoder_weights are not read then."""
    classes: int = 1
    """Number of mask classes."""

    def __post_init__(self) -> None:
        if self.architecture not in DEFAULT_ENCODERS and self.encoder:
            raise ValueError(f"encoder={self.encoder!r}: {self.architecture} has an encoder of its own; leave it out")
        if self.decoder_channels != DECODER_CHANNELS and self.architecture not in ("unet", "unetplusplus"):
            raise ValueError(
                f"decoder_channels belong to unet and unetplusplus: leave them out for {self.architecture}"
            )
        chosen = self.output_stride != 0 or self.atrous_rates != ATROUS_RATES
        if chosen and self.architecture not in DILATED:
            raise ValueError(
                "output_stride and atrous_rates belong to deeplabv3 and deeplabv3plus: leave them out for "
                f"{self.architecture}"
            )
        if min(self.atrous_rates) < 1:
            raise ValueError(f"atrous_rates={self.atrous_rates} must each be 1 or more")
        if not 0 <= self.head_channel <= 20 or (self.head_channel and self.architecture != "deeplabv3_resnet101"):
            raise ValueError(
                f"head_channel={self.head_channel} must lie in 0 to 20 for deeplabv3_resnet101, and is 0 for others"
            )
        if not 1 <= self.classes <= 7:
            raise ValueError(f"classes={self.classes} must lie in 1 to 7")
        self._check_weights()

    def _check_weights(self) -> None:
        if not self.encoder_weights:
            choices = "`none`, `shipped`, the hub's name of weights (imagenet, ...) or `file:PATH`"
            raise ValueError(f"encoder_weights='' names no weights: choose {choices}")
        if self.encoder_weights == "shipped" and self.encoder != SHIPPED_ENCODER:
            remedy = f"write encoder = {SHIPPED_ENCODER!r}, or choose other encoder_weights (none, imagenet, file:PATH)"
            raise ValueError(
                f"encoder_weights='shipped' are those of {SHIPPED_ENCODER} and the encoder is "
                f"{self.encoder or DEFAULT_ENCODERS.get(self.architecture, 'its own')!r}: {remedy}"
            )

    def arguments(self) -> dict[str, Any]:
        """What the network is built with, as `build_model` takes it and a manifest's member records it."""
        arguments: dict[str, Any] = {"classes": self.classes}
        if self.architecture in DEFAULT_ENCODERS:
            arguments["encoder"] = self.encoder or DEFAULT_ENCODERS[self.architecture]
        if self.architecture in ("unet", "unetplusplus"):
            arguments["decoder_channels"] = list(self.decoder_channels)
        if self.output_stride:
            arguments["output_stride"] = self.output_stride
        if self.atrous_rates != ATROUS_RATES:
            arguments["atrous_rates"] = list(self.atrous_rates)
        if self.architecture == "deeplabv3_resnet101":
            arguments["head_channel"] = self.head_channel
        if self.activation == "softmax":
            arguments["activation"] = "softmax"
        return arguments
