"""What detectors find in tiles: views are undone exactly, boxes are fused before one head's masks."""

import dataclasses

import numpy as np
import pytest
import torch

from histofold.core.objects.paste import paste_masks
from histofold.models.instances.finds import TileFinds
from histofold.predict.objects.finds import find_in_tiles, undo_finds
from histofold.predict.stages import Networks
from histofold.predict.views import apply_view
from histofold.schema.manifest import Manifest
from histofold.schema.objects import ObjectConfig
from histofold.schema.prediction import VIEW_NAMES
from histofold.schema.preprocessing import Preprocessing
from small_detectors import LEVELS, BoxDetector, ExactDetector
from small_stages import CPU, stages_of_models

SIDE, WIDTH = 64, 96
MANIFEST = Manifest(
    competition="vrdl_nuclei",
    preprocessing=Preprocessing(normalise="none", target_pixel_size_um=1.0),
    tile=WIDTH,
    halo=8,
    views=VIEW_NAMES,
    classes=("nucleus",),
    objects=ObjectConfig(),
)


def tile_of(seed):
    """A tile of four boxes of labels, none of them in its middle, as uint8 (1, H, W, 3)."""
    rng = np.random.default_rng(seed)
    image_NHWC = np.zeros((1, SIDE, WIDTH, 3), np.uint8)
    for label, (y, x) in enumerate([(3, 5), (5, 40), (36, 2), (41, 37)], 1):
        image_NHWC[0, y : y + rng.integers(4, 20), x : x + rng.integers(4, 20), 0] = LEVELS * label
    return image_NHWC


def found(models, manifest=MANIFEST, seed=0):
    (stage,) = stages_of_models(models, manifest)
    return find_in_tiles(stage.networks[0], tile_of(seed), stage.passes, manifest)[0]


@pytest.mark.parametrize("detector", [ExactDetector, BoxDetector])
@pytest.mark.parametrize("seed", range(3))
def test_every_view_finds_the_same(detector, seed):
    of_views = found([detector()], seed=seed)
    assert len(of_views) == len(VIEW_NAMES)
    for finds in of_views:
        for name in ("boxes", "scores", "masks"):
            np.testing.assert_array_equal(getattr(finds, name), getattr(of_views[0], name))


@pytest.mark.parametrize("view", VIEW_NAMES)
def test_undoing_is_what_pixels_do(view):
    """Boxes of 5 x 9 pixels whose masks have a value for each, found in a turned tile: pasted, they are pixels."""
    generator = torch.Generator().manual_seed(1)
    corners_M2 = torch.randint(0, SIDE - 9, (6, 2), generator=generator).float()
    turned_hw = tuple(apply_view(torch.zeros(1, 1, SIDE, WIDTH), view).shape[2:])
    boxes_M4 = torch.cat([corners_M2, corners_M2 + torch.tensor([5.0, 9.0])], 1)
    turned = TileFinds(boxes_M4, torch.rand(6, generator=generator), torch.rand(6, 5, 9, generator=generator))
    undone = undo_finds(turned, view, (SIDE, WIDTH))
    there, here = (
        paste_masks(finds.boxes_M4.numpy(), finds.masks_Mhw.numpy(), shape_hw, framed=False)
        for finds, shape_hw in ((turned, turned_hw), (undone, (SIDE, WIDTH)))
    )
    assert torch.equal(undone.scores_M, turned.scores_M)
    for mask_there, mask_here in zip(there, here, strict=True):
        turned_HW = apply_view(torch.from_numpy(mask_here.to_mask())[None, None], view)[0, 0]
        np.testing.assert_array_equal(turned_HW.numpy(), mask_there.to_mask())


def test_boxes_are_fused_and_the_first_member_draws_all_masks():
    models = [BoxDetector(1.0), BoxDetector(0.5, shift=2)]
    manifest = dataclasses.replace(MANIFEST, views=("identity",), objects=ObjectConfig(fusion="boxes", fusion_iou=0.3))
    (finds,) = found(models, manifest)
    assert finds.boxes.shape == (4, 4)
    alone = found([BoxDetector()], dataclasses.replace(manifest, objects=ObjectConfig()))[0]
    np.testing.assert_allclose(finds.boxes[:, 1] - alone.boxes[:, 1], 2 / 3, atol=1e-5)
    np.testing.assert_allclose(finds.scores, 0.75 * alone.scores, rtol=1e-6)
    ((asked,),) = models[0].asked
    np.testing.assert_array_equal(asked.numpy(), finds.boxes)
    assert models[1].asked == []


def test_half_precision_that_overflows_is_computed_again(caplog):
    class Overflowing(ExactDetector):
        def finds(self, labels_HW):
            kept = super().finds(labels_HW)
            broken = kept.scores_M * (float("nan") if torch.is_autocast_enabled("cpu") else 1)
            return TileFinds(kept.boxes_M4, broken, kept.masks_Mhw)

    (stage,) = stages_of_models([Overflowing()], MANIFEST, precision=torch.bfloat16)
    (of_tile,) = find_in_tiles(stage.networks[0], tile_of(0), stage.passes, MANIFEST)
    assert np.isfinite(of_tile[0].scores).all()
    assert "full precision" in caplog.text


def test_broken_weights_are_no_objects():
    class Broken(ExactDetector):
        def finds(self, labels_HW):
            kept = super().finds(labels_HW)
            return TileFinds(kept.boxes_M4 * float("nan"), kept.scores_M, kept.masks_Mhw)

    networks = Networks([Broken()], CPU, torch.float32)
    (stage,) = stages_of_models([Broken()], MANIFEST)
    with pytest.raises(ArithmeticError, match="not numbers"):
        find_in_tiles(networks, tile_of(0), stage.passes, MANIFEST)
