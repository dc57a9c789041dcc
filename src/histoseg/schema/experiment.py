"""One experiment: everything that decides a run, in one small TOML file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from histoseg.schema.dataset import DataConfig, TilesConfig
from histoseg.schema.preprocessing import Preprocessing
from histoseg.schema.views import check_views


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation; each is a probability or a strength, 0 switches it off."""

    crop: int = 0
    """Side of a random piece of each tile that the network sees, in network pixels; 0: the whole tile."""
    flip: float = 0.5
    """Probability of each flip."""
    rotate90: float = 1.0
    """Probability of a rotation by a random multiple of 90 degrees."""
    affine: float = 0.5
    """Probability of scaling, rotation and shear."""
    scale: float = 0.2
    """Largest relative change of scale."""
    rotate: float = 20.0
    """Largest rotation in degrees."""
    sharpness: float = 0.2
    """Probability of blurring or sharpening."""
    colour: float = 0.5
    """Probability of brightness, contrast, saturation and hue jitter."""
    colour_strength: float = 0.2
    """Largest relative jitter of colour."""
    hed: float = 0.5
    """Probability of stain jitter in haematoxylin-eosin-DAB space."""
    hed_strength: float = 0.06
    """Largest relative and absolute jitter of each stain."""
    stain_transfer: float = 0.0
    """Probability of recomposing the tile with other stain vectors, between H-DAB, H&E and PAS."""
    stain_transfer_strength: float = 1.0
    """How far transferred stains stray from the tile's own, 0 to 1."""
    stain_template: float = 0.0
    """Probability of shifting the tile's colours to a template drawn from the statistics of the training fold."""
    stain_template_spread: float = 1.0
    """Spread of the drawn templates, as a multiple of that among the training tiles; at most 5."""
    grey: float = 0.0
    """Probability of showing the tile in grey."""

    def __post_init__(self) -> None:
        probabilities = ("flip", "rotate90", "affine", "sharpness", "colour", "hed", "stain_transfer", "stain_template")
        for name in (*probabilities, "grey"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} is a probability of 0 to 1")
        if self.crop < 0 or self.crop % 32:
            raise ValueError(f"crop={self.crop} must be a multiple of 32, or 0 for the whole tile")
        if not 0 <= self.scale < 1 or not 0 <= self.colour_strength < 1 or not 0 <= self.hed_strength < 1:
            raise ValueError("scale, colour_strength and hed_strength must lie in [0, 1)")
        if not 0 <= self.stain_transfer_strength <= 1:
            raise ValueError(f"stain_transfer_strength={self.stain_transfer_strength} must lie in [0, 1]")
        if not 0 <= self.stain_template_spread <= 5:
            raise ValueError(f"stain_template_spread={self.stain_template_spread} must lie in [0, 5]")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    architecture: Literal["unet"] = "unet"
    """Network family."""
    encoder: str = "resnet34"
    """Any encoder of segmentation-models-pytorch, timm ones as tu-NAME."""
    encoder_weights: str = "none"
    """`none`, the name of weights on the hub (imagenet, ...), or `file:PATH` of a local state dict."""
    decoder_channels: tuple[int, int, int, int, int] = (256, 128, 64, 32, 16)
    """Channels of the five decoder stages, coarse to fine."""
    init: str = ""
    """`runs/E`: each fold starts from that run's same fold; `file:PATH`: all start from one file; empty: from none."""
    classes: int = 1
    """Number of mask classes."""

    def __post_init__(self) -> None:
        if self.classes != 1:
            raise ValueError(f"classes={self.classes}: the competitions so far have exactly one mask class")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the loss terms."""

    bce: float = 0.5
    """Weight of binary cross-entropy."""
    dice: float = 0.5
    """Weight of the soft Dice loss, over the whole batch."""

    def __post_init__(self) -> None:
        if min(self.bce, self.dice) < 0 or self.bce + self.dice <= 0:
            raise ValueError(f"bce={self.bce} and dice={self.dice} must not be negative, and not both zero")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with linear warm-up and cosine decay, and an exponential moving average of the weights."""

    lr: float = 1e-3
    """Peak learning rate."""
    weight_decay: float = 1e-2
    """Decoupled weight decay; biases and normalisation layers are spared."""
    warmup: float = 0.05
    """Share of the steps that warm up."""
    final_lr: float = 0.01
    """Learning rate at the end, as a share of the peak."""
    clip: float = 1.0
    """Largest gradient norm; 0 switches clipping off."""
    ema: float = 0.99
    """Decay of the averaged weights in each step (warmed up from 0); 0 switches averaging off."""

    def __post_init__(self) -> None:
        if not self.lr > 0 or self.weight_decay < 0 or self.clip < 0:
            raise ValueError("lr must be positive; weight_decay and clip must not be negative")
        if not 0 <= self.warmup < 1 or not 0 <= self.final_lr <= 1 or not 0 <= self.ema < 1:
            raise ValueError("warmup and ema must lie in [0, 1), final_lr in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The loop, counted in optimisation steps so that the same seed gives the same result on any machine."""

    seed: int = 0
    """Seed of weights, sampling and augmentation."""
    steps: int = 4000
    """Optimisation steps of a fold."""
    batch: int = 8
    """Images of a step on each process."""
    workers: int = 2
    """Loader processes; results do not depend on it."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto`: bf16 where the hardware has it, else fp16 on a GPU, else fp32."""
    validate_every: int = 500
    """Steps between validations on whole slides."""
    validate_images: int = 24
    """Most slides of a validation during training; the last one takes all of them."""
    save_every: int = 100
    """Steps between saved states."""
    balanced: bool = True
    """Draw masked and unmasked tiles equally, and within masked ones each area bin equally."""
    regions: dict[str, float] = field(default_factory=dict)
    """Share of the draws from each region of the anatomy (column region); all other tiles share what is left of 1."""

    def __post_init__(self) -> None:
        for name in ("steps", "validate_every", "validate_images", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.batch < 2:
            raise ValueError(f"batch={self.batch} must be at least 2, for batch normalisation")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} must not be negative")
        if self.workers < 0:
            raise ValueError(f"workers={self.workers} must not be negative")
        shares = self.regions.values()
        if shares and not (all(0 < share <= 1 for share in shares) and sum(shares) <= 1 + 1e-9):
            raise ValueError(f"regions={self.regions}: shares must lie in (0, 1] and add up to 1 at most")


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """How slides are predicted: in validation, out-of-fold and, through the manifest, in the kernel."""

    tile: int = 512
    """Tile side in network pixels (physical mode)."""
    halo: int = 32
    """Network pixels on each side that are read but not written."""
    blend: bool = False
    """Blend overlapping tiles by a smooth weight instead of cutting at the halo."""
    stride: int = 0
    """Distance of tile origins; 0 means tile less twice the halo, or half a tile when blending."""
    views: tuple[str, ...] = ("identity", "hflip", "vflip", "rot180")
    """Symmetries of the square that are averaged."""
    batch: int = 4
    """Tiles of a forward pass; goes into the manifest."""
    min_area_um2: float = 0.0
    """Smaller components are dropped; without a pixel size nothing is dropped."""

    def __post_init__(self) -> None:
        if self.tile < 32 or self.tile % 32:
            raise ValueError(f"tile={self.tile} must be a multiple of 32, for the encoder's five halvings")
        if self.halo < 0 or self.tile <= 2 * self.halo:
            raise ValueError(f"tile={self.tile} px must exceed twice the halo ({self.halo} px)")
        largest = self.tile if self.blend else self.tile - 2 * self.halo
        if not 0 <= self.stride <= largest:
            raise ValueError(f"stride={self.stride} must lie in [1, {largest}], or be 0 for the default")
        if self.batch < 1 or self.min_area_um2 < 0:
            raise ValueError("batch must be at least 1 and min_area_um2 not negative")
        check_views(self.views)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A whole experiment; see `experiments/*.toml` for examples."""

    data: DataConfig = field(default_factory=DataConfig)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    tiles: TilesConfig = field(default_factory=TilesConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
