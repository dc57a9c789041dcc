"""Slides of a fake hidden set."""

import pytest

from histofold.core.faults import InputError
from histofold.synth.competitions import HiddenSlides, hidden_looks


def test_images_are_drawn_at_their_size_and_the_same_again():
    looks = [*hidden_looks("hubmap_2022", ("lung",)), *hidden_looks("vasculature_2023"), *hidden_looks("vrdl_nuclei")]
    for number, (look, shape_hw) in enumerate(zip(looks, [(31, 90), (60, 40), (64, 70), (40, 50)], strict=True)):
        drawn_HWC = HiddenSlides(3, 90)(number, look, shape_hw)
        assert drawn_HWC.shape == (*shape_hw, 3)
        assert (HiddenSlides(3, 90)(number, look, shape_hw) == drawn_HWC).all()
        assert (HiddenSlides(4, 90)(number, look, shape_hw) != drawn_HWC).any()


def test_every_organ_comes_from_every_source_and_others_are_refused():
    assert [look[0] for look in hidden_looks("hubmap_2022", ("lung", "spleen"))] == ["lung", "spleen"] * 2
    assert [look[0] for look in hidden_looks("kidney_2020")] == ["kidney"]
    with pytest.raises(InputError, match="no organ of kidney_2020"):
        hidden_looks("kidney_2020", ("lung",))
