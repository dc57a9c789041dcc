"""How labels fit their image: held to plain regression, and to what was done to the labels."""

import cv2
import numpy as np
import pytest

from histofold.core.rle.runs import Runs, runs_from_mask
from histofold.data.explore.label_fit import _pixel_features, fit_labels, likeness, line_continuity


@pytest.fixture(scope="module")
def labelled():
    """Dark blobs on lighter ground, and their mask; not square."""
    rng = np.random.default_rng(3)
    mask = np.zeros((150, 210), np.uint8)
    for y, x in ((30, 40), (60, 130), (110, 70), (100, 170), (35, 180)):
        cv2.ellipse(mask, (x, y), (20, 13), 30.0, 0, 360, 1, -1)
    image = np.where(mask[..., None] > 0, (120, 70, 140), (205, 150, 190)) + rng.normal(0, 14, (150, 210, 3))
    return np.clip(image, 0, 255).astype(np.uint8), mask > 0


def moved(mask, dy, dx):
    out = np.zeros_like(mask)
    height, width = mask.shape
    out[max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)] = mask[
        max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)
    ]
    return out


def test_r2_is_that_of_a_regression(labelled):
    image_HWC, mask = labelled
    features = _pixel_features(image_HWC).reshape(11, -1).T.astype(float)
    design = np.column_stack([features, np.ones(len(features))])
    wanted = mask.reshape(-1).astype(float)
    rest = wanted - design @ np.linalg.lstsq(design, wanted, rcond=None)[0]
    fit = fit_labels(image_HWC, mask)
    assert fit.r2 == pytest.approx(1 - rest.var() / wanted.var(), abs=0.01)
    assert fit.r2 > 0.7
    assert fit.shift_yx == (0, 0)
    assert fit.best_r2 == pytest.approx(fit.r2)


@pytest.mark.parametrize(("dy", "dx"), [(9, 0), (0, -12), (-7, 11), (20, 20)])
def test_a_shift_is_found_and_undone(labelled, dy, dx):
    image_HWC, mask = labelled
    fit = fit_labels(image_HWC, moved(mask, dy, dx))
    found = fit.shift_yx[0] * 150, fit.shift_yx[1] * 210
    assert found == pytest.approx((-dy, -dx), abs=2)
    assert fit.best_r2 > fit.r2 + 0.15


@pytest.mark.parametrize(
    ("name", "undo"),
    [
        ("upside down", lambda mask: mask[::-1]),
        ("mirrored", lambda mask: mask[:, ::-1]),
        ("turned by 180 degrees", lambda mask: mask[::-1, ::-1]),
    ],
)
def test_a_turned_mask_fits_when_it_is_turned_back(labelled, name, undo):
    image_HWC, mask = labelled
    fit = fit_labels(image_HWC, undo(mask))
    assert max(fit.other_r2, key=fit.other_r2.get) == name
    assert fit.other_r2[name] == pytest.approx(fit_labels(image_HWC, mask).r2, abs=1e-3)


def test_nothing_to_fit(labelled):
    image_HWC, mask = labelled
    assert fit_labels(image_HWC, np.zeros_like(mask)) is None
    assert fit_labels(image_HWC, np.ones_like(mask)) is None
    assert fit_labels(image_HWC[:31], mask[:31]) is None
    assert fit_labels(np.full_like(image_HWC, 200), mask) is None


@pytest.mark.parametrize("order", ["F", "C"])
def test_continuity_is_the_dice_with_the_next_line(labelled, order):
    mask = labelled[1]
    runs = runs_from_mask(mask, order)
    lines = mask if order == "C" else mask.T
    overlap = (lines[1:] & lines[:-1]).sum() / mask.sum()
    given, other = line_continuity(runs)
    assert given == pytest.approx(overlap, abs=0.02)
    assert given > other + 0.1
    misread = Runs(runs.starts, runs.lengths, runs.shape_hw, "C" if order == "F" else "F")
    assert line_continuity(misread) == (other, given)


def test_no_shift_onto_bare_glass_is_proposed():
    """Labels of tissue beside a hole in it of the same shape: the hole is what colours tell best."""
    image = np.random.default_rng(0).normal((150, 90, 140), 8, (150, 210, 3))
    mask, glass = np.zeros((150, 210), np.uint8), np.zeros((150, 210), np.uint8)
    cv2.circle(mask, (100, 70), 20, 1, -1)
    cv2.circle(glass, (125, 70), 20, 1, -1)
    image[glass > 0] = 245
    image_HWC = np.clip(image, 0, 255).astype(np.uint8)
    assert fit_labels(image_HWC, mask > 0).shift_yx[1] * 210 == pytest.approx(25, abs=2)
    fit = fit_labels(image_HWC, mask > 0, glass_HW=glass > 0)
    down, right = (round(share * side) for share, side in zip(fit.shift_yx, (150, 210), strict=True))
    there = moved(mask > 0, down, right) & (glass > 0)
    assert there.sum() <= (mask & glass).sum() + 0.02 * mask.sum()


def test_no_shift_that_loses_labels_at_the_border_is_proposed(labelled):
    image_HWC, mask = labelled
    cut = np.zeros_like(mask)
    cut[:, :30] = moved(mask, 0, -105)[:, :30]
    fit = fit_labels(image_HWC, cut)
    kept = moved(cut, round(fit.shift_yx[0] * 150), round(fit.shift_yx[1] * 210))
    assert kept.sum() >= 0.9 * cut.sum()


def test_labels_are_alike_in_every_image_but_that_of_another(labelled):
    image_HWC, mask = labelled
    rng = np.random.default_rng(4)
    fits = []
    for _ in range(6):
        noisy = np.clip(image_HWC + rng.normal(0, 6, image_HWC.shape), 0, 255).astype(np.uint8)
        fits.append(fit_labels(noisy, mask))
    fits.append(fit_labels(image_HWC, mask[::-1, ::-1]))
    found = likeness(fits)
    assert found[:6].min() > 0.8
    assert abs(found[6]) < 0.2
