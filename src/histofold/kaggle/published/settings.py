"""What a published checkpoint does not say of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from histofold.core.faults import Fault, InputError
from histofold.schema.manifest import Manifest, installed_versions
from histofold.schema.network import PyramidArchitecture
from histofold.schema.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing


@dataclass(frozen=True, kw_only=True)
class ImportSettings:
    """What a .pth file does not say: its network, and how it was trained to see slides. Only with --import."""

    architecture: PyramidArchitecture = "unext50"
    """The published network of the files."""
    competition: str = "hubmap_2022"
    """Name of the adapter that reads the images and writes the rows."""
    classes: tuple[str, ...] = ("ftu",)
    """Names of the mask classes, as many as the network gives."""
    pixel_size_um: float | None = None
    """Pixel size in um that the network was trained at; with --whole-size alone, whole images are predicted."""
    whole_size: int | None = None
    """Side in network pixels of whole images; beside --pixel-size-um only for images of unknown pixel size."""
    tile: int = 512
    """Tile side in network pixels; a whole image is one tile."""
    halo: int = 32
    """Network pixels of a tile that are read but not written."""
    normalise: Literal["none", "imagenet", "dataset", "per_image"] = "imagenet"
    """`none`: 0 to 1. `imagenet` and `dataset`: by --mean and --std. `per_image`: by each tile's own moments."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean of the red, green and blue channel, of values in 0 to 1 (`dataset`)."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation of the channels, of values in 0 to 1 (`dataset`)."""
    threshold: float = 0.5
    """Probability threshold."""
    views: tuple[str, ...] = ("identity",)
    """Symmetries that are averaged."""
    image_size: int = 0
    """Side in pixels that the publication built its EfficientNet for, which decides the encoder's padding; 0: the size
    of the ImageNet weights, as efficientnet_pytorch does by itself. All multiples of 32 mean the same."""

    def __post_init__(self) -> None:
        if self.image_size and (self.architecture == "unext50" or self.image_size < 32):
            raise ValueError(f"image_size={self.image_size} must be at least 32, and is of effunet alone")
        if self.normalise != "dataset" and (self.mean, self.std) != (IMAGENET_MEAN, IMAGENET_STD):
            raise ValueError(f"mean and std belong to normalise='dataset', and it is {self.normalise!r}")

    def arguments(self) -> dict[str, Any]:
        """What the network is built with."""
        arguments: dict[str, Any] = {"classes": len(self.classes)}
        return {**arguments, "image_size": self.image_size} if self.image_size else arguments

    def manifest(self) -> Manifest:
        """The manifest before it has members.

        Raises:
            InputError: A setting is out of range.
        """
        scale: dict[str, Any] = {}
        if self.pixel_size_um is not None:
            scale["target_pixel_size_um"] = self.pixel_size_um
        if self.whole_size is not None:
            scale["whole_size"] = self.whole_size
        whole = self.whole_size is not None and self.pixel_size_um is None
        try:
            preprocessing = Preprocessing(
                scale_mode="whole" if whole else "physical",
                normalise=self.normalise,
                mean=self.mean,
                std=self.std,
                **scale,
            )
            return Manifest(
                competition=self.competition,
                preprocessing=preprocessing,
                classes=self.classes,
                thresholds={"default": self.threshold},
                tile=preprocessing.whole_size if whole else self.tile,
                halo=0 if whole else self.halo,
                views=self.views,
                versions=installed_versions(),
            )
        except ValueError as error:
            raise InputError([Fault("settings", "command line", str(error), "change the option")]) from error
