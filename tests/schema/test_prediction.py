import math
from dataclasses import fields

import pytest

from histofold.schema.augment import AugmentConfig
from histofold.schema.dataset import TilesConfig
from histofold.schema.experiment import Experiment
from histofold.schema.manifest import Manifest
from histofold.schema.prediction import PredictConfig
from histofold.schema.preprocessing import Preprocessing


def test_cleaning_is_off_at_first():
    names = ("seed_threshold", "max_hole_um2", "min_area_um2")
    assert [getattr(PredictConfig(), name) for name in names] == [0.0] * 3


def test_the_manifest_inherits_every_setting_of_prediction():
    manifest = Manifest(competition="folder", preprocessing=Preprocessing())
    for field in fields(PredictConfig):
        if field.name not in ("views", "tile"):
            assert getattr(manifest, field.name) == field.default, field.name
    assert manifest.views == ("identity",), "what a manifest does not name costs nothing"
    assert manifest.tile == 512


def test_a_manifest_knows_the_size_of_its_tiles():
    with pytest.raises(ValueError, match="tile=0 must be a multiple of 32"):
        Manifest(competition="folder", preprocessing=Preprocessing(), tile=0)


@pytest.mark.parametrize(
    ("crop", "size", "halo", "set_tile", "tile"),
    [
        (256, 512, 32, 0, 256),
        (0, 512, 32, 0, 512),
        (0, 192, 60, 0, 256),
        (64, 512, 32, 0, 128),
        (256, 512, 32, 768, 768),
    ],
)
def test_tiles_are_predicted_as_large_as_what_was_trained_on(crop, size, halo, set_tile, tile):
    experiment = Experiment(
        augment=AugmentConfig(crop=crop),
        tiles=TilesConfig(size=size, stride=size),
        predict=PredictConfig(tile=set_tile, halo=halo),
    )
    assert experiment.manifest(Preprocessing(), "folder", ("ftu",)).tile == tile


def test_a_stride_that_leaves_gaps_between_tiles_of_training_is_refused():
    with pytest.raises(ValueError, match="stride=300 must lie in"):
        Experiment(augment=AugmentConfig(crop=256), predict=PredictConfig(stride=300))
    whole = Preprocessing(scale_mode="whole", whole_size=96)
    assert Experiment(preprocessing=whole).manifest(whole, "folder", ("ftu",)).tile == 96


@pytest.mark.parametrize("name", ["max_hole_um2", "min_area_um2", "seed_threshold"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_what_is_no_size_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}"):
        PredictConfig(**{name: value})


def test_a_seed_threshold_that_nothing_passes_is_refused():
    assert PredictConfig(seed_threshold=0.99).seed_threshold == 0.99
    with pytest.raises(ValueError, match="below 1"):
        PredictConfig(seed_threshold=1.0)
