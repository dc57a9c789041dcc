"""One experiment: everything that decides a run, in one small TOML file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from histofold.schema.augment import AugmentConfig
from histofold.schema.dataset import DataConfig, TilesConfig
from histofold.schema.loss import LossConfig
from histofold.schema.network import ModelConfig
from histofold.schema.optim import OptimConfig
from histofold.schema.postprocess import Postprocess
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.views import check_views


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
    organs: dict[str, float] = field(default_factory=dict)
    """Share of the draws from each organ (column organ); all other organs share what is left of 1."""
    accumulate: int = 1
    """Batches whose gradients are added up to one optimisation step."""
    tracker: str = ""
    """A tracker that Accelerate knows (tensorboard, wandb, mlflow, ...), told all that log.csv holds; empty: none."""

    def __post_init__(self) -> None:
        for name in ("steps", "validate_every", "validate_images", "save_every", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.batch < 2:
            raise ValueError(f"batch={self.batch} must be at least 2, for batch normalisation")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} must not be negative")
        if self.workers < 0:
            raise ValueError(f"workers={self.workers} must not be negative")
        for name in ("regions", "organs"):
            shares = getattr(self, name).values()
            if shares and not (all(0 < share <= 1 for share in shares) and sum(shares) <= 1 + 1e-9):
                raise ValueError(f"{name}={getattr(self, name)}: shares must lie in (0, 1] and add up to 1 at most")
        if self.regions and self.organs:
            raise ValueError("regions and organs cannot both have shares: choose one of them")


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
    """Views that are averaged: symmetries of the square, each also zoomed (hflip@0.8) or restained (hflip~h1.1e0.9)."""
    average: Literal["probabilities", "logits"] = "probabilities"
    """What members and views are averaged in."""
    skip_blank: bool = False
    """Leave tiles out that show nothing but bare glass. Refused by `evaluate` where that costs truth."""
    batch: int = 4
    """Tiles of a forward pass; goes into the manifest."""
    min_area_um2: float = 0.0
    """Smaller components are dropped; without a pixel size nothing is dropped."""
    max_hole_um2: float = 0.0
    """Holes up to this area are filled."""
    smooth_um: float = 0.0
    """Radius that boundaries are smoothed with, at the original size."""
    seed_threshold: float = 0.0
    """Components stay only where a pixel reaches this probability (hysteresis); 0 switches it off."""

    def __post_init__(self) -> None:
        if self.tile < 32 or self.tile % 32:
            raise ValueError(f"tile={self.tile} must be a multiple of 32, for the encoder's five halvings")
        if self.halo < 0 or self.tile <= 2 * self.halo:
            raise ValueError(f"tile={self.tile} px must exceed twice the halo ({self.halo} px)")
        largest = self.tile if self.blend else self.tile - 2 * self.halo
        if not 0 <= self.stride <= largest:
            raise ValueError(f"stride={self.stride} must lie in [1, {largest}], or be 0 for the default")
        if self.batch < 1:
            raise ValueError(f"batch={self.batch} must be at least 1")
        Postprocess(
            min_area_um2=self.min_area_um2,
            max_hole_um2=self.max_hole_um2,
            smooth_um=self.smooth_um,
            seed_threshold=self.seed_threshold,
        )
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

    def __post_init__(self) -> None:
        self.loss.check_activation(self.model.activation)
