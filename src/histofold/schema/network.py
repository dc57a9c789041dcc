"""The network of an experiment."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from histofold.schema.encoders import PLAIN_TRANSFORMERS, UNDILATED, has_built_side
from histofold.schema.sam import SAM, SamConfig

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
DenseArchitecture = Literal[
    "unet",
    "unetplusplus",
    "manet",
    "fpn",
    "pan",
    PyramidArchitecture,
    "deeplabv3",
    "deeplabv3plus",
    "deeplabv3_resnet101",
    "segformer",
    "upernet",
    "dpt",
]
"""Networks that give a logit for each pixel."""
DetectorArchitecture = Literal["maskrcnn", "maskrcnn_c4", "mask2former", "yolo"]
"""Networks that give objects."""
Architecture = Literal[DenseArchitecture, DetectorArchitecture, "sam"]
DEFAULT_ENCODERS = {
    "unet": "resnet34",
    "unetplusplus": "resnet34",
    "manet": "resnet34",
    "fpn": "resnet34",
    "pan": "resnet34",
    "deeplabv3": "resnet50",
    "deeplabv3plus": "resnet50",
    "segformer": "mit_b0",
    "upernet": "tu-convnext_tiny",
    "dpt": "tu-vit_small_patch16_224",
}
"""Networks whose encoder is a choice, with the one that they have where none is named."""
DETECTOR_ENCODERS = {
    "maskrcnn": "resnet50",
    "maskrcnn_c4": "resnet50",
    "mask2former": "swin_tiny",
    "yolo": "yolo11n-seg",
}
"""The same of detectors."""
DECODER_CHANNELS = (256, 128, 64, 32, 16)
FIVE_STAGED = ("unet", "unetplusplus", "manet")
"""Networks whose decoder's channels are a choice."""
DILATED = ("deeplabv3", "deeplabv3plus")
"""Networks whose encoder's stride and whose pyramid's dilations are a choice."""
ATROUS_RATES = (12, 24, 36)
SHIPPED_ENCODER = "tu-tf_efficientnet_lite0"
"""The encoder whose ImageNet weights a pinned package of requirements.txt carries."""


SCORE_LINE = "score_line"
"""Among a detector's arguments in a manifest: slope and offset of its scores' logits, see `Calibrated`."""


def needs_smp(architecture: str) -> bool:
    """Whether a network is built with segmentation-models-pytorch, which Kaggle's image lacks."""
    return architecture not in ("segformer", "deeplabv3_resnet101", *DETECTOR_ENCODERS)


def takes_organs(architecture: str) -> bool:
    """Whether a network's decoder can know organs."""
    return needs_smp(architecture) and architecture not in get_args(PyramidArchitecture)


def is_detector(architecture: str) -> bool:
    """Whether a network gives objects instead of a logit for each pixel."""
    return architecture in get_args(DetectorArchitecture)


def default_encoder(architecture: str) -> str:
    """The encoder of a network where none is named; empty where it is no choice."""
    return {**DEFAULT_ENCODERS, **DETECTOR_ENCODERS}.get(architecture, "")


def check_encoder_name(encoder: Any) -> None:
    """Refuse what is no bare name: timm reads `hf-hub:OWNER/NAME` from the internet, `local-dir:PATH` from the disk.

    It does so even where the weights are at hand, for the network's description; a kernel can do neither.

    Raises:
        ValueError: With what a name may be.
    """
    if not isinstance(encoder, str) or not re.fullmatch(r"[\w.-]*", encoder, re.ASCII):
        remedy = (
            "give letters, digits, - _ and . alone, as tu-resnet18; of a model on a hub the name that timm has for its "
            "network, image_size as its weights were made for, and encoder_weights = file:PATH of the downloaded file"
        )
        raise ValueError(f"encoder={encoder!r} is no name: {remedy}")


BOX_DETECTORS = ("maskrcnn", "maskrcnn_c4")
"""Detectors of proposals, which have masks in any boxes."""
_DETECTORS_BY_SETTING = {
    "heads": ("maskrcnn",),
    "channels": ("maskrcnn",),
    "queries": ("mask2former",),
    "nms_threshold": (*BOX_DETECTORS, "yolo"),
}
_SETTINGS_OF_ALL_DETECTORS = ("max_detections", "score_threshold")


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """What a detector has besides its encoder."""

    heads: Literal["v1", "v2"] = "v1"
    """Heads of maskrcnn: `v1` as published (He et al. 2017); `v2`: with more convolutions and batch normalisation (Li
    et al. 2021), as torchvision's second version."""
    channels: int = 256
    """Channels of maskrcnn's pyramid, proposals and mask head: 256 as published; at 128 a step takes half of the time,
    at 64 a third of it."""
    norm: Literal["batch", "frozen"] = "batch"
    """Batch normalisation of the encoder (maskrcnn, maskrcnn_c4): `batch` goes on learning; `frozen` keeps the
    statistics of pretrained weights, for batches of one or two."""
    anchor_sizes: tuple[int, ...] = (8, 16, 32, 64, 128)
    """Sides of the anchors in pixels of the tile, each in three shapes (maskrcnn, maskrcnn_c4). Of maskrcnn five, one
    for each map of its pyramid; photographs take 32, 64, 128, 256, 512."""
    proposals_before_nms: int = 2000
    """Most proposals of an image and of each map before suppression (maskrcnn, maskrcnn_c4)."""
    proposals_after_nms: int = 2000
    """Most proposals of an image after suppression (maskrcnn, maskrcnn_c4)."""
    sampled_boxes: int = 512
    """Proposals of an image that the heads learn from in a step, a quarter of them objects where there are as many
    (maskrcnn, maskrcnn_c4)."""
    nms_threshold: float = 0.5
    """Overlap (IoU) of two boxes of a tile above which the lower score goes (not of mask2former)."""
    max_detections: int = 1000
    """Most objects of a tile."""
    score_threshold: float = 0.05
    """Score below which nothing is found at all; what counts as an object in the end is decided later."""
    queries: int = 100
    """Most objects that mask2former can find in a tile; 100 in published weights."""

    def __post_init__(self) -> None:
        if not self.anchor_sizes or min(self.anchor_sizes) < 1:
            raise ValueError(f"anchor_sizes={self.anchor_sizes} must be one side or more, each 1 px or more")
        limits = (
            "proposals_before_nms",
            "proposals_after_nms",
            "sampled_boxes",
            "max_detections",
            "queries",
            "channels",
        )
        for name in limits:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be 1 or more")
        for name in ("nms_threshold", "score_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in 0 to 1")

    def arguments(self, architecture: str) -> dict[str, Any]:
        """The settings that an architecture reads."""
        settings = {name: value for name, value in asdict(self).items() if _reads(architecture, name)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}

    def check_architecture(self, architecture: str) -> None:
        """Refuse what an architecture does not read, or cannot be built with.

        Raises:
            ValueError: With the setting and what to do.
        """
        for setting in fields(self):
            if getattr(self, setting.name) != setting.default and not _reads(architecture, setting.name):
                raise ValueError(f"{setting.name} is not read by {architecture}: leave it out")
        if architecture == "maskrcnn" and len(self.anchor_sizes) != 5:
            raise ValueError(f"anchor_sizes={self.anchor_sizes}: maskrcnn has a pyramid of five maps, give five sides")


def _reads(architecture: str, setting: str) -> bool:
    """Whether an architecture has a detector's setting."""
    if setting in _SETTINGS_OF_ALL_DETECTORS:
        return is_detector(architecture)
    return architecture in _DETECTORS_BY_SETTING.get(setting, BOX_DETECTORS)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    architecture: Architecture = "unet"
    """Network family."""
    encoder: str = ""
    """Encoder of unet, unetplusplus, manet, fpn, pan, deeplabv3, deeplabv3plus and upernet: any of
    segmentation-models-pytorch, timm ones as tu-NAME; of dpt: tu-vit_*, tu-deit*, tu-eva02_*; of segformer: mit_b0 to
    mit_b5; of maskrcnn: resnet18 to resnet152, or a convolutional one of timm as tu-NAME; of maskrcnn_c4: resnet50,
    resnet101, resnet152; of mask2former: swin_tiny, swin_small; of yolo: yolo11n-seg and its like. Empty: the
    family's usual one. Other networks have their own."""
    image_size: int = 0
    """Side in pixels that the encoder is built for (tu-maxvit*, tu-hiera_*, tu-coatnet*, and dpt's); 0: the last number
    of its name. MaxViT takes tiles of its multiples, Hiera and CoAtNet of this side alone, dpt of any; there it is the
    side that the weights' position embedding was made for."""
    encoder_weights: str = "none"
    """`none`; `shipped`: ImageNet weights of tu-tf_efficientnet_lite0, installed with the project; the name of weights
    on the hub (imagenet, ...); or `file:PATH` of a local state dict. Of sam `file:PATH` of all of its weights: the
    published .pth, or a folder that transformers saved."""
    decoder_channels: tuple[int, int, int, int, int] = DECODER_CHANNELS
    """Channels of the five decoder stages, coarse to fine (unet, unetplusplus and manet)."""
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
    organs: tuple[str, ...] = ()
    """Organs by which the decoder's maps are scaled and shifted (FiLM), each by its name; nothing is done where the
    organ is another or unknown. Of networks of segmentation-models-pytorch and dpt."""
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    """What maskrcnn, maskrcnn_c4, mask2former and yolo have besides their encoder."""
    sam: SamConfig = field(default_factory=SamConfig)
    """How sam is asked, and which of its answers count."""

    def __post_init__(self) -> None:
        check_encoder_name(self.encoder)
        self.detector.check_architecture(self.architecture)
        if is_detector(self.architecture) and (self.classes != 1 or self.activation != "sigmoid"):
            raise ValueError(f"{self.architecture} finds objects of one class: leave out classes and activation")
        if not default_encoder(self.architecture) and self.encoder:
            raise ValueError(f"encoder={self.encoder!r}: {self.architecture} has an encoder of its own; leave it out")
        self._check_encoder(self.encoder or default_encoder(self.architecture))
        if self.decoder_channels != DECODER_CHANNELS and self.architecture not in FIVE_STAGED:
            raise ValueError(
                f"decoder_channels belong to unet, unetplusplus and manet: leave them out for {self.architecture}"
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
        if "" in self.organs or len(set(self.organs)) < len(self.organs):
            raise ValueError(f"organs={self.organs}: name each organ once")
        if self.organs and not takes_organs(self.architecture):
            raise ValueError(f"organs={self.organs} are not read by {self.architecture}: leave them out")
        self._check_weights()
        self._check_sam()

    def _check_encoder(self, encoder: str) -> None:
        """Refuse what the encoder's name alone rules out."""
        if (self.architecture == "dpt") != encoder.startswith(PLAIN_TRANSFORMERS):
            names = ", ".join(f"{name}*" for name in PLAIN_TRANSFORMERS)
            raise ValueError(f"encoder={encoder!r}: dpt takes {names}, and no other architecture does")
        if self.architecture in (*DILATED, "pan") and encoder.startswith(UNDILATED):
            raise ValueError(f"encoder={encoder!r} cannot be dilated as {self.architecture} needs it: take upernet")
        if self.image_size and not has_built_side(encoder):
            raise ValueError(
                f"image_size={self.image_size} is not read by {encoder or self.architecture}: leave it out"
            )
        if self.image_size < 0 or (self.image_size % 32 and self.architecture != "dpt"):
            raise ValueError(f"image_size={self.image_size} must be a multiple of 32, or 0 for the encoder's own")

    def _check_weights(self) -> None:
        if not self.encoder_weights:
            choices = "`none`, `shipped`, the hub's name of weights (imagenet, ...) or `file:PATH`"
            raise ValueError(f"encoder_weights='' names no weights: choose {choices}")
        if self.encoder_weights == "shipped" and self.encoder != SHIPPED_ENCODER:
            remedy = f"write encoder = {SHIPPED_ENCODER!r}, or choose other encoder_weights (none, imagenet, file:PATH)"
            raise ValueError(
                f"encoder_weights='shipped' are those of {SHIPPED_ENCODER} and the encoder is "
                f"{self.encoder or default_encoder(self.architecture) or 'its own'!r}: {remedy}"
            )

    def _check_sam(self) -> None:
        if self.architecture != SAM:
            if self.sam != SamConfig():
                raise ValueError(f"[model.sam] belongs to sam: leave it out for {self.architecture}")
        elif not self.encoder_weights.startswith("file:") or self.init:
            rule = "sam is scored as it was published: name its file or folder"
            raise ValueError(f'{rule}, encoder_weights = "file:PATH", and no init')
        elif self.classes != 1 or self.activation != "sigmoid":
            raise ValueError("the segments of sam have no classes: leave out classes and activation")

    @property
    def words(self) -> str:
        """The architecture, and that it is told the truth where it is."""
        return self.architecture if self.sam.prompts == "grid" else f"{self.architecture}, {self.sam.prompts}"

    def arguments(self, slices: int = 3) -> dict[str, Any]:
        """What the network is built with, as `build_model` takes it and a manifest's member records it.

        Args:
            slices: Of a volume that it sees, as `Preprocessing.slices` says.
        """
        arguments: dict[str, Any] = {"classes": self.classes}
        if slices != 3:
            arguments["slices"] = slices
        if self.architecture == SAM:
            return {**arguments, "sam": asdict(self.sam)}
        if default_encoder(self.architecture):
            arguments["encoder"] = self.encoder or default_encoder(self.architecture)
        if self.image_size:
            arguments["image_size"] = self.image_size
        if self.architecture in FIVE_STAGED:
            arguments["decoder_channels"] = list(self.decoder_channels)
        if self.output_stride:
            arguments["output_stride"] = self.output_stride
        if self.atrous_rates != ATROUS_RATES:
            arguments["atrous_rates"] = list(self.atrous_rates)
        if self.architecture == "deeplabv3_resnet101":
            arguments["head_channel"] = self.head_channel
        if self.activation == "softmax":
            arguments["activation"] = "softmax"
        if self.organs:
            arguments["organs"] = list(self.organs)
        return {**arguments, **self.detector.arguments(self.architecture)}
