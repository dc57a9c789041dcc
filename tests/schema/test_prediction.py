import math
from dataclasses import fields

import pytest

from histofold.schema.manifest import Manifest
from histofold.schema.prediction import PredictConfig
from histofold.schema.preprocessing import Preprocessing


def test_cleaning_is_off_at_first():
    names = ("seed_threshold", "max_hole_um2", "min_area_um2")
    assert [getattr(PredictConfig(), name) for name in names] == [0.0] * 3


def test_the_manifest_inherits_every_setting_of_prediction():
    manifest = Manifest(competition="folder", preprocessing=Preprocessing())
    for field in fields(PredictConfig):
        if field.name != "views":
            assert getattr(manifest, field.name) == field.default, field.name
    assert manifest.views == ("identity",), "what a manifest does not name costs nothing"


@pytest.mark.parametrize("name", ["max_hole_um2", "min_area_um2", "seed_threshold"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_what_is_no_size_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}"):
        PredictConfig(**{name: value})


def test_a_seed_threshold_that_nothing_passes_is_refused():
    assert PredictConfig(seed_threshold=0.99).seed_threshold == 0.99
    with pytest.raises(ValueError, match="below 1"):
        PredictConfig(seed_threshold=1.0)
