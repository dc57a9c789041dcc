"""The scale of a demo: physical where most images state one."""

import logging

from histofold.data.demo import NETWORK_SIDE, WHOLE_SIDE, demo_preprocessing
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.sample import Sample


def scale(*sizes):
    return demo_preprocessing(
        [Sample(id=str(n), image_path=None, pixel_size_um=size, shape_hw=(900, 1200)) for n, size in enumerate(sizes)]
    )


def test_one_image_without_a_size_does_not_move_the_others(caplog):
    whole, one_missing = scale(0.5, 0.5, 0.5, 0.5), scale(0.5, None, 0.5, 0.5)
    assert whole == Preprocessing(target_pixel_size_um=2.0)
    assert one_missing.scale_mode == "physical"
    assert one_missing.target_pixel_size_um == whole.target_pixel_size_um
    assert one_missing.scaled_hw((900, 1200), 0.5) == (225, NETWORK_SIDE)
    assert one_missing.scaled_hw((900, 1200), None) == (240, WHOLE_SIDE), "about as large as the others"
    with caplog.at_level(logging.WARNING, logger="histofold"):
        assert scale(None, None).scale_mode == "whole"
        assert caplog.text == ""
        assert scale(None, None, 0.5).scale_mode == "whole"
        assert "2 of 3 images have no pixel size" in caplog.text
