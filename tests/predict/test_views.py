from dataclasses import replace

import numpy as np
import pytest
import torch

from histofold.core.stain import stain_jitter_map
from histofold.predict.views import SQUARE_VIEWS, apply_view, normalise_tiles, restain, undo_view
from histofold.schema.prediction import VIEW_NAMES, View, check_views, parse_view, views_by_zoom
from histofold.schema.preprocessing import Preprocessing

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
    with pytest.raises(ValueError, match="repeat"):
        check_views(("hflip", "hflip@1.0"))
    with pytest.raises(ValueError, match="must lie in"):
        check_views(("identity@9",))
    with pytest.raises(ValueError, match="unknown views"):
        check_views(("identity@-1",))


def test_names_of_views_are_read():
    assert parse_view("rot90@1.25~h1.1e0.9") == View("rot90", 1.25, (1.1, 0.9))
    assert parse_view("hflip") == View("hflip")
    names = ("identity", "hflip@0.8", "vflip", "identity@0.8~h0.9e1")
    assert views_by_zoom(names) == {1.0: ("identity", "vflip"), 0.8: ("hflip@0.8", "identity@0.8~h0.9e1")}


@pytest.mark.parametrize("name", ["hflip@0.8", "transpose~h1.2e0.8", "rot90@2~h0.5e1"])
def test_a_zoom_or_stain_leaves_the_square_undone_exactly(name):
    assert torch.equal(undo_view(apply_view(IMAGES_NCHW, name), name), IMAGES_NCHW)


def test_restaining_scales_the_amounts_of_the_stains():
    rng = np.random.default_rng(0)
    amounts_NC = rng.uniform(0, 0.8, (40, 3))
    unit, _ = stain_jitter_map(np.ones(3), np.zeros(3))
    np.testing.assert_allclose(unit, np.eye(3), atol=1e-9)
    from histofold.core.stain import HED_FROM_RUIFROK

    stains = HED_FROM_RUIFROK / np.linalg.norm(HED_FROM_RUIFROK, axis=1, keepdims=True)

    def image(amounts_NC):
        return torch.from_numpy(256 * np.exp(-amounts_NC @ stains) - 1).float().T[None, :, None]

    factors = np.array([1.3, 0.7, 0.7])
    tiles_NCHW = image(amounts_NC).clamp(0, 255)
    restained_NCHW = restain(tiles_NCHW, parse_view("identity~h1.3e0.7"))
    torch.testing.assert_close(restained_NCHW, image(amounts_NC * factors).clamp(0, 255), atol=0.05, rtol=0)
    bytes_NCHW = tiles_NCHW.to(torch.uint8)
    assert restain(bytes_NCHW, View()) is bytes_NCHW
    white = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    torch.testing.assert_close(restain(white, parse_view("identity~h2e2")), white.float())


@pytest.mark.parametrize("normalise", ["none", "imagenet", "per_image"])
def test_a_network_of_one_slice_is_given_the_middle_channel(normalise):
    tiles = torch.randint(0, 256, (2, 5, 16, 24), dtype=torch.uint8)
    spec = Preprocessing(normalise=normalise, slices=1)
    assert torch.equal(normalise_tiles(tiles, spec), normalise_tiles(tiles[:, 2:3], spec))
    assert normalise_tiles(tiles, replace(spec, slices=3)).shape == (2, 3, 16, 24)
