import math
from dataclasses import fields

import pytest

from histofold.schema.postprocess import Postprocess


def test_everything_is_off_at_first():
    assert {field.name: getattr(Postprocess(), field.name) for field in fields(Postprocess)} == dict.fromkeys(
        ("seed_threshold", "max_hole_um2", "smooth_um", "min_area_um2"), 0.0
    )


@pytest.mark.parametrize("name", ["max_hole_um2", "smooth_um", "min_area_um2", "seed_threshold"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_what_is_no_size_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}"):
        Postprocess(**{name: value})


def test_a_seed_threshold_that_nothing_passes_is_refused():
    assert Postprocess(seed_threshold=0.99).seed_threshold == 0.99
    with pytest.raises(ValueError, match="below 1"):
        Postprocess(seed_threshold=1.0)
