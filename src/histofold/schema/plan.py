"""From an experiment to the manifest that its weights will carry."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from histofold.schema.experiment import Experiment
from histofold.schema.manifest import Manifest
from histofold.schema.preprocessing import Preprocessing

RECORDED_PACKAGES = (
    *("histofold", "torch", "segmentation-models-pytorch", "timm", "numpy", "opencv-python-headless", "pillow"),
)


def manifest_of(
    experiment: Experiment, preprocessing: Preprocessing, competition: str, classes: tuple[str, ...]
) -> Manifest:
    """The manifest of an experiment before it has members: how validation and the kernel predict.

    Args:
        experiment: The experiment.
        preprocessing: Its preprocessing, completed by the dataset's moments.
        competition: Name of the adapter.
        classes: Names of the mask classes.
    """
    whole = preprocessing.scale_mode == "whole"
    predict = experiment.predict
    return Manifest(
        competition=competition,
        preprocessing=preprocessing,
        classes=classes,
        min_area_um2=predict.min_area_um2,
        max_hole_um2=predict.max_hole_um2,
        smooth_um=predict.smooth_um,
        seed_threshold=predict.seed_threshold,
        tile=preprocessing.whole_size if whole else predict.tile,
        halo=0 if whole else predict.halo,
        blend=predict.blend and not whole,
        stride=0 if whole else predict.stride,
        views=predict.views,
        average=predict.average,
        skip_blank=predict.skip_blank,
        batch=predict.batch,
        versions=installed_versions(),
    )


def installed_versions(packages: Sequence[str] = RECORDED_PACKAGES) -> dict[str, str]:
    """Versions of packages, as far as they are installed; by default of those that decide a prediction."""
    versions = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
