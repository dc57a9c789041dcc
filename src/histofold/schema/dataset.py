"""What an experiment is trained on: datasets, their folds and their tiles."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from histofold.schema.volumes import SLICE_AXIS, check_axes

LEAVE_ONE_OUT_RULES = ("source", "organ")
FOLD_RULES = ("group", "image", *LEAVE_ONE_OUT_RULES)
COLUMN_RULE = "column:"


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One more dataset to train on, a `[[data.sources]]` table."""

    dataset: str
    """Folder that build_dataset.py wrote, at the same scale as the main one."""
    name: str = ""
    """Its name in tables and logs; empty means that of the folder."""
    root: str = ""
    """Its folder of images; empty means the one that build_dataset.py recorded."""
    weight: float = 1.0
    """Share of its draws, beside `data.weight` and the weights of the other sources."""
    role: Literal["train", "folds"] = "train"
    """`train`: in every fold's training, never scored; `folds`: its own folds.csv takes part."""
    duplicates: Literal["refuse", "drop"] = "refuse"
    """What to do where it repeats images of the sources before it: refuse, or leave its copies out."""

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"weight={self.weight} of source {self.dataset} must be positive; leave the source out")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the data lies."""

    dataset: str = "dataset"
    """Folder that build_dataset.py wrote: folds.csv, index.csv, tiles."""
    root: str = ""
    """The competition folder; empty means the one that build_dataset.py recorded."""
    weight: float = 1.0
    """Share of its draws where there are further sources."""
    sources: tuple[SourceConfig, ...] = ()
    """Further datasets to train on."""
    clean_blank: bool = False
    """Cut tiles without the labels on the glass around the tissue; worth it only where it gains out-of-fold."""

    grow_sources: dict[str, float] = field(default_factory=dict)
    """By how many pixels of the image the objects of a source grow before tiles are cut, or shrink where it is below
    0: of objects that people drew too thin there."""
    stain_references: tuple[str, ...] = ()
    """Ids of the images whose colours stain normalisation aims at; they are measured when the dataset is built."""

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"weight={self.weight} of the main dataset must be positive")
        if not all(-100 <= radius_px <= 100 for radius_px in self.grow_sources.values()):
            raise ValueError(f"grow_sources={self.grow_sources} must lie in [-100, 100] pixels")


@dataclass(frozen=True, kw_only=True)
class TilesConfig:
    """How slides are cut into training tiles (physical mode)."""

    size: int = 512
    """Tile side in network pixels; the tile of an image that is shorter ends with it."""
    stride: int = 384
    """Distance of tile origins in network pixels."""
    min_tissue: float = 0.05
    """Tiles with a smaller tissue fraction and no mask are dropped."""
    grids: tuple[Literal["grid", "shifted", "objects"], ...] = ("grid",)
    """Where tiles come from: `grid` at the stride, `shifted` half a stride beside it, `objects` on each object."""
    scales: tuple[float, ...] = (1.0,)
    """Scales of the tiles relative to the network's: 0.5 shows twice the extent in the same number of pixels."""
    min_saturation: float = 0.0
    """Tiles with a smaller mean saturation (that of HSV) and no mask are dropped."""
    keep_background: float = 1.0
    """Share of the tiles without mask that is kept; which ones depends on their place and the seed alone."""
    object_jitter: float = 0.125
    """Largest displacement of a tile from the middle of its object, as a share of the tile's side."""
    max_objects: int = 1000
    """Most objects of a slide and class that get tiles of their own, drawn by the seed; 0 takes all."""
    area_bins: tuple[float, float, float] = (0.02, 0.1, 0.3)
    """Upper mask fractions of the bins very_small, small and some; above the last it is large."""
    folds: int = 5
    """Number of folds, where folds.csv is not given."""
    seed: int = 0
    """Seed of the folds and of what is drawn while tiles are cut."""
    fold_by: str = "group"
    """What a fold keeps whole: `group`, `image`, `column:NAME` of a table; `source`, `organ`: a fold for each."""
    axes: tuple[str, ...] = (SLICE_AXIS,)
    """Planes of volumes that tiles are cut from: xy, the slices, and xz and zy, which are turned on disk for it."""
    tilt: float = 0.0
    """Largest angle in degrees, below 90, of further planes of volumes: one through the middle of each slice, tilted by
    an angle and to a side that are drawn by the seed; 0: none."""
    holdout: int = 0
    """Images of a single held-out fold 0, all others always trained on; 0: `folds` folds instead."""

    def __post_init__(self) -> None:
        if self.size < 32 or self.size % 32:
            raise ValueError(f"size={self.size} must be a multiple of 32, for the encoder's five halvings")
        if not 0 < self.stride <= self.size:
            raise ValueError(f"stride={self.stride} must lie in [1, size={self.size}]")
        if not 0 < self.area_bins[0] < self.area_bins[1] < self.area_bins[2] < 1:
            raise ValueError(f"area_bins={self.area_bins} must rise between 0 and 1")
        if self.folds < 2:
            raise ValueError(f"folds={self.folds} must be at least 2: one fold has nothing to train on")
        if self.fold_by not in FOLD_RULES and self.fold_by.removeprefix(COLUMN_RULE) in ("", self.fold_by):
            raise ValueError(f"fold_by={self.fold_by!r} must be one of {', '.join(FOLD_RULES)} or {COLUMN_RULE}NAME")
        if self.holdout < 0 or (self.holdout and self.fold_by in LEAVE_ONE_OUT_RULES):
            raise ValueError(f"holdout={self.holdout} must not be negative, and 0 where fold_by={self.fold_by!r}")
        if not 0 <= self.tilt < 90:
            raise ValueError(f"tilt={self.tilt} must lie in [0, 90) degrees")
        check_axes(self.axes)
        if SLICE_AXIS not in self.axes:
            raise ValueError(f"axes={self.axes}: {SLICE_AXIS} must be among them, the slices that folds hold")
        self._check_sources()

    def _check_sources(self) -> None:
        if not self.grids or len(set(self.grids)) < len(self.grids):
            raise ValueError(f"grids={self.grids}: name each of grid, shifted, objects at most once, and one at least")
        if not self.scales or len(set(self.scales)) < len(self.scales):
            raise ValueError(f"scales={self.scales}: give each scale once, and one at least")
        if not all(0.05 <= scale <= 4 for scale in self.scales):
            raise ValueError(f"scales={self.scales} must lie in [0.05, 4] of the network's scale")
        for name in ("min_tissue", "min_saturation", "keep_background"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} is a fraction of 0 to 1")
        if not 0 <= self.object_jitter <= 0.45:
            raise ValueError(f"object_jitter={self.object_jitter} must lie in [0, 0.45]: the middle stays in the tile")
        if self.max_objects < 0:
            raise ValueError(f"max_objects={self.max_objects} must not be negative; 0 takes all")
