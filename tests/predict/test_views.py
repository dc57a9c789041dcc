import pytest
import torch

from histoseg.predict.views import SQUARE_VIEWS, apply_view, undo_view
from histoseg.schema.views import VIEW_NAMES, check_views

IMAGES_NCHW = torch.arange(2 * 3 * 5 * 7).reshape(2, 3, 5, 7)


@pytest.mark.parametrize("view", SQUARE_VIEWS)
def test_undo_is_exact(view):
    assert torch.equal(undo_view(apply_view(IMAGES_NCHW, view), view), IMAGES_NCHW)


def test_the_eight_views_are_distinct():
    square = torch.arange(9).reshape(1, 1, 3, 3)
    assert len({tuple(apply_view(square, view).flatten().tolist()) for view in SQUARE_VIEWS}) == 8


@pytest.mark.parametrize(("view", "turns"), [("rot90", 1), ("rot180", 2), ("rot270", 3)])
def test_rotations_are_torchs(view, turns):
    assert torch.equal(apply_view(IMAGES_NCHW, view), torch.rot90(IMAGES_NCHW, turns, (2, 3)))


def test_flips_are_torchs():
    assert torch.equal(apply_view(IMAGES_NCHW, "hflip"), torch.flip(IMAGES_NCHW, (3,)))
    assert torch.equal(apply_view(IMAGES_NCHW, "vflip"), torch.flip(IMAGES_NCHW, (2,)))


def test_every_name_has_a_view():
    assert set(SQUARE_VIEWS) == set(VIEW_NAMES)


def test_unknown_and_repeated_views_are_refused():
    with pytest.raises(ValueError, match="known are identity"):
        check_views(("identity", "flip"))
    with pytest.raises(ValueError, match="not be empty"):
        check_views(())
    with pytest.raises(ValueError, match="repeat"):
        check_views(("identity", "identity"))
