"""Published checkpoints of UneXt50 and EffUnet (.pth) as a weights folder that predicts like any other."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from histofold.competitions.registry import get_competition
from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.kaggle.package import check_target, write_package
from histofold.schema.manifest import Manifest, Member, file_sha256
from histofold.schema.network import PyramidArchitecture
from histofold.schema.plan import installed_versions
from histofold.schema.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

if TYPE_CHECKING:
    import torch

NO_FOLD = -1
"""The fold of an imported member: none of ours."""
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "model.")


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


def import_package(
    files: Sequence[Path], settings: ImportSettings, out: Path, slug: str = "", licence: str = "other"
) -> Manifest:
    """Put published checkpoints into one weights folder, an ensemble of as many members as files.

    Args:
        files: State dicts (.pth, .pt), all of one architecture.
        settings: Architecture and how to predict.
        out: Where to write; files that an earlier package put there are replaced.
        slug: Name of the dataset on Kaggle.
        licence: Its licence, which is that of whoever published the weights.

    Raises:
        InputError: With the faults of the first file that cannot be read or does not fit, or of the settings; files of
            the same name or the same weights.
    """
    manifest = settings.manifest()
    get_competition(settings.competition)  # refuses one that no adapter could write a submission for
    check_target(out)
    if settings.pixel_size_um is None and settings.whole_size is None:
        size = manifest.preprocessing.target_pixel_size_um
        logger.warning("a file does not say at which scale it was trained: %g um assumed (--pixel-size-um)", size)
    logger.info("imported weights keep the licence under which they were published; the dataset says %r", licence)
    with tempfile.TemporaryDirectory() as name:
        converted = _convert_all(files, settings, Path(name))
        members = tuple(
            Member(
                file=path.name,
                sha256=digest,
                architecture=settings.architecture,
                arguments=settings.arguments(),
                fold=NO_FOLD,
            )
            for digest, path in converted.items()
        )
        sources = {path.name: path for path in converted.values()}
        return write_package(replace(manifest, members=members), sources, out, slug, licence)


def read_published_state(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .pth file, out of what training scripts wrap around them.

    Only tensors and plain containers are unpickled (`weights_only`): a file can run no code.

    Raises:
        InputError: If it is missing, holds anything else, or no tensors.
    """
    import torch

    if not file.is_file():
        raise InputError([Fault(file.stem, str(file), "no such file", "check the path after --import")])
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        rule = f"is no file of tensors alone ({type(error).__name__})"
        remedy = "load it where it was trained and save `model.state_dict()`"
        raise InputError([Fault(file.stem, str(file), rule, remedy)]) from error
    while isinstance(state, dict) and (wrapper := next((key for key in _WRAPPERS if key in state), None)):
        state = state[wrapper]
    if not isinstance(state, dict) or not state or not all(isinstance(t, torch.Tensor) for t in state.values()):
        rule = "holds no table of named tensors"
        raise InputError([Fault(file.stem, str(file), rule, "save `model.state_dict()`")])
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _convert_all(files: Sequence[Path], settings: ImportSettings, folder: Path) -> dict[str, Path]:
    """Our weights of each file, in `folder`, by their SHA-256."""
    import torch
    from safetensors.torch import save_file

    from histofold.kaggle.published.keys import to_our_state
    from histofold.models.build import build_model

    if not files:
        raise InputError([Fault("import", "command line", "no file given", "name at least one .pth file")])
    with torch.device("meta"):  # names and shapes are all that is wanted
        wanted = build_model(settings.architecture, settings.arguments()).state_dict()
    converted: dict[str, Path] = {}
    names: dict[str, Path] = {}
    for file in files:
        state = to_our_state(read_published_state(file), wanted, str(file), settings.architecture)
        target = folder / (re.sub(r"[^A-Za-z0-9_.-]+", "_", file.stem) + ".safetensors")
        if target.name in names:
            rule = f"its weights would get the name of those of {names[target.name]}"
            raise InputError([Fault(file.stem, str(file), rule, "rename one of the two")])
        names[target.name] = file
        save_file(state, target)
        digest = file_sha256(target)
        if digest in converted:
            rule = f"the same weights as {names[converted[digest].name]}"
            raise InputError([Fault(file.stem, str(file), rule, "an ensemble needs distinct ones: leave one out")])
        converted[digest] = target
    return converted
