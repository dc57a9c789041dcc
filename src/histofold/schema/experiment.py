"""One experiment, everything that decides a run, in one small TOML file; and the runs of an ensemble in another."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from histofold.schema.augment import COLOUR_CHANGES, WHOLE_PIXEL_SIZE_RATIO, AugmentConfig
from histofold.schema.dataset import DataConfig, TilesConfig
from histofold.schema.encoders import check_sides
from histofold.schema.files import moved_path
from histofold.schema.loss import LossConfig
from histofold.schema.manifest import Manifest, installed_versions
from histofold.schema.network import ModelConfig, is_detector
from histofold.schema.objects import ObjectConfig
from histofold.schema.optim import OptimConfig
from histofold.schema.prediction import NETWORK_MULTIPLE, PredictConfig, parse_view, views_by_zoom
from histofold.schema.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from histofold.schema.sam import SAM
from histofold.schema.volumes import VolumeConfig

VALIDATION_THRESHOLD = 0.5
"""Of every validation: a threshold that is chosen on the slides it is scored on would flatter."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The loop, counted in optimisation steps so that the same seed gives the same result on any machine."""

    seed: int = 0
    """Seed of weights, sampling and augmentation."""
    steps: int = 4000
    """Optimisation steps of a fold; 0 for sam alone, whose weights are scored as they are."""
    batch: int = 8
    """Images of a step on each process; 1 for detectors alone."""
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
    """Draw masked and unmasked tiles equally, and within masked ones each area bin equally, so far as no tile is drawn
    more than three times as often as another. Images that are seen whole are drawn equally whatever this says: a few
    without masks would else be drawn again and again."""
    regions: dict[str, float] = field(default_factory=dict)
    """Share of the draws from each region of the anatomy (column region); all other tiles share what is left of 1."""
    organs: dict[str, float] = field(default_factory=dict)
    """Share of the draws from each organ (column organ); all other organs share what is left of 1."""
    sources: dict[str, float] = field(default_factory=dict)
    """Share of the draws from each source (column source: HPA, dataset_1, ...); all others share what is left of 1."""
    accumulate: int = 1
    """Batches whose gradients are added up to one optimisation step."""
    tracker: str = ""
    """A tracker that Accelerate knows (tensorboard, wandb, mlflow, ...), which gets what log.csv holds; empty: none."""

    def __post_init__(self) -> None:
        for name in ("batch", "validate_every", "validate_images", "save_every", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("steps", "seed", "workers"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        for name in ("regions", "organs", "sources"):
            shares = getattr(self, name).values()
            if shares and not (all(0 < share <= 1 for share in shares) and sum(shares) <= 1 + 1e-9):
                raise ValueError(f"{name}={getattr(self, name)}: shares must lie in (0, 1] and add up to 1 at most")
        if sum(map(bool, (self.regions, self.organs, self.sources))) > 1:
            raise ValueError("regions, organs and sources cannot have shares together: choose one of them")


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
    objects: ObjectConfig = field(default_factory=ObjectConfig)
    """Read in competitions of objects alone."""
    volume: VolumeConfig = field(default_factory=VolumeConfig)
    """Read in competitions of volumes alone."""

    def __post_init__(self) -> None:
        self.loss.check_activation(self.model.activation)
        if self.preprocessing.slices != 3:
            self._check_slices()
        ratio = self.augment.pixel_size_ratio
        if self.preprocessing.scale_mode == "whole" and ratio is not None and ratio > WHOLE_PIXEL_SIZE_RATIO:
            rule = "at most 1.4 where images are seen whole, which lack most of a larger view"
            raise ValueError(f"augment.pixel_size_ratio={ratio} must be {rule}")
        if self.train.batch < 2 and not is_detector(self.model.architecture):
            raise ValueError(f"train.batch={self.train.batch} must be at least 2, for batch normalisation")
        check_sides(self.model.encoder, self.model.image_size, self._seen_sides())
        if (self.train.steps == 0) != (self.model.architecture == SAM):
            raise ValueError(
                f"train.steps={self.train.steps} must be 0 for sam, which learns nothing, and at least 1 for others, "
                f"as {self.model.architecture}"
            )
        if self.model.architecture == SAM:
            self._check_sam()

    def _check_sam(self) -> None:
        """Refuse what published weights were not made to see, and views in which prompts would lie elsewhere."""
        seen = self.preprocessing
        if seen.slices == 5 or (seen.normalise, seen.mean, seen.std) != ("imagenet", IMAGENET_MEAN, IMAGENET_STD):
            rule = (
                f"normalise={seen.normalise!r}, slices={seen.slices}: sam sees colours as it was published, by imagenet"
            )
            raise ValueError(
                f"{rule}, or one slice as grey: leave out normalise, mean and std, and set slices to 1 or 3"
            )
        if self.model.sam.prompts != "grid" and self.predict.views != ("identity",):
            rule = f"predict.views={self.predict.views}: boxes and points of the truth lie in the tile as it is"
            raise ValueError(f'{rule}: write ["identity"]')

    def prediction(self) -> PredictConfig:
        """How slides are predicted in tiles: where no tile is set, in tiles of what the network was trained on."""
        if self.predict.tile:
            return self.predict
        side = max(self.augment.crop or self.tiles.size, 4 * self.predict.halo)
        return replace(self.predict, tile=-(-side // NETWORK_MULTIPLE) * NETWORK_MULTIPLE)

    def _seen_sides(self) -> dict[str, int]:
        """Side of the square images that the network sees, in pixels, by the setting that decides it."""
        crop = {"augment.crop": self.augment.crop} if self.augment.crop else {}
        if self.preprocessing.scale_mode == "physical":
            return (crop or {"tiles.size": self.tiles.size}) | {"predict.tile": self.prediction().tile}
        zooms = [zoom for zoom in views_by_zoom(self.predict.views) if zoom != 1]
        zoomed = {f"the side of views @{zoom:g}": self.preprocessing.zoomed(zoom).whole_size for zoom in zooms}
        return crop | {"preprocessing.whole_size": self.preprocessing.whole_size} | zoomed

    def _check_slices(self) -> None:
        """Refuse changes of colours, which slices have none of."""
        augment = self.augment.resolved()
        names = [f"augment.{name}" for name in COLOUR_CHANGES if getattr(augment, name)]
        names += ["preprocessing.stain"] * (self.preprocessing.stain != "none")
        names += [f"the view {view}" for view in self.predict.views if parse_view(view).stain != (1.0, 1.0)]
        if names:
            change = f"preprocessing.slices={self.preprocessing.slices}: {', '.join(names)} would change colours"
            raise ValueError(f"{change}, which slices have none of: set them to 0, or leave them out")

    def as_trained(self) -> Experiment:
        """The same with what images that are seen whole decide: they are drawn equally and hardly seen from afar."""
        if self.preprocessing.scale_mode != "whole":
            return self
        ratio = self.augment.pixel_size_ratio or WHOLE_PIXEL_SIZE_RATIO
        augment = replace(self.augment, pixel_size_ratio=ratio)
        return replace(self, augment=augment, train=replace(self.train, balanced=False))

    def manifest(
        self,
        preprocessing: Preprocessing,
        competition: str,
        classes: tuple[str, ...],
        objects: bool = False,
        volume: bool = False,
    ) -> Manifest:
        """The manifest of its weights before there are any: how validation and the kernel predict.

        Args:
            preprocessing: Its preprocessing, completed by the dataset's moments.
            competition: Name of the adapter.
            classes: Names of the mask classes.
            objects: Whether single objects are predicted.
            volume: Whether volumes are predicted.
        """
        if preprocessing.scale_mode == "physical":
            settings = self.prediction()
        else:  # one tile is the whole image
            settings = replace(self.predict, tile=preprocessing.whole_size, halo=0, blend=False, stride=0)
        return Manifest(
            competition=competition,
            preprocessing=preprocessing,
            classes=classes,
            versions=installed_versions(),
            objects=self.objects if objects else None,
            volume=self.volume if volume else None,
            **vars(settings),
        )


def with_moved_data(experiment: Experiment, beside: Path) -> Experiment:
    """An experiment whose datasets are found where its project lies now.

    Args:
        experiment: Its paths are as the file has them.
        beside: The file, or the run that holds it.
    """
    data = experiment.data
    sources = tuple(replace(s, dataset=str(moved_path(Path(s.dataset), beside))) for s in data.sources)
    dataset = str(moved_path(Path(data.dataset), beside))
    return replace(experiment, data=replace(data, dataset=dataset, sources=sources))


@dataclass(frozen=True, kw_only=True)
class JointRuns:
    """What `histofold package experiments/J.toml` packages, and `histofold evaluate` scores together.

    See `experiments/group_ensemble.toml`.
    """

    runs: tuple[str, ...]
    """Run folders, runs/A; every finished fold of each becomes a member."""
    shares: tuple[float, ...] = ()
    """Part of each run in the average, divided among its folds; none means that every member counts alike."""

    def __post_init__(self) -> None:
        if not self.runs or len(set(self.runs)) < len(self.runs):
            raise ValueError(f"runs={list(self.runs)}: name at least one run, and each of them once")
        if self.shares and (len(self.shares) != len(self.runs) or min(self.shares) <= 0):
            raise ValueError(
                f"shares={list(self.shares)}: write a positive number for each of the {len(self.runs)} runs"
            )


def joint_folder(path: Path, runs: Path) -> Path:
    """Where the evaluation of joint runs lies: beside the runs, under the name of the file that joins them."""
    return runs / path.stem
