"""Laws of a synthetic slide: any part equals the whole, blocks join, same key same bytes, artefacts spare the truth."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from histofold.synth.drawing import slide as slide_module
from histofold.synth.drawing.slide import ARTEFACTS, ORGANS, Picture, SlideSpec, SyntheticSlide
from histofold.synth.drawing.tissue import draw_stain

pytestmark = pytest.mark.slow


def spec_of(organ: str = "kidney", second: str = "pas", **changes) -> SlideSpec:
    values = {"key": (7, 1), "shape_hw": (300, 420), "pixel_size_um": 0.4, "shrink": 1 / 3} | changes
    return SlideSpec(organ=organ, stain=draw_stain(np.random.default_rng(3), second), **values)


def assert_same(first: Picture, second: Picture) -> None:
    assert np.array_equal(first.image_HWC, second.image_HWC)
    assert np.array_equal(first.mask_HW, second.mask_HW)
    assert np.array_equal(first.lumen_HW, second.lumen_HW)


@pytest.mark.parametrize("organ", ORGANS)
def test_parts_in_any_order_equal_the_whole(organ: str) -> None:
    spec = spec_of(organ, shape_hw=(530, 1100), artefacts=ARTEFACTS, jpeg_quality=60)
    whole = SyntheticSlide(spec).whole()
    assert whole.image_HWC.shape == (530, 1100, 3)
    assert whole.image_HWC.dtype == np.uint8
    assert whole.mask_HW.dtype == whole.lumen_HW.dtype == bool
    slide = SyntheticSlide(spec)
    for place in (
        np.s_[500:530, 1000:1100],
        np.s_[0:1, 0:1],
        np.s_[250:262, 1020:1030],
        np.s_[-3:, :],
        np.s_[5:5, 2:9],
    ):
        assert_same(slide.read(*place), whole[place])


@pytest.mark.parametrize("rows", [1, 100, 256, 300, 512, 2000])
def test_bands_partition_the_slide(rows: int) -> None:
    slide = SyntheticSlide(spec_of(shape_hw=(530, 90) if rows > 1 else (70, 90)))
    whole, reached = slide.whole(), 0
    for band, picture in slide.bands(rows):
        assert band.start == reached
        assert band.stop - band.start <= rows
        assert_same(picture, whole[band, :])
        reached = band.stop
    assert reached == slide.shape_hw[0]


def test_every_block_of_aligned_bands_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    draw_block = slide_module.Painter.draw_block
    monkeypatch.setattr(
        slide_module.Painter,
        "draw_block",
        lambda self, top, left: drawn.append((top, left)) or draw_block(self, top, left),
    )
    list(SyntheticSlide(spec_of(shape_hw=(600, 48))).bands(256))
    assert drawn == [(0, 0), (256, 0), (512, 0)]


@pytest.mark.parametrize("organ", ORGANS)
@pytest.mark.parametrize("shrink", [0.3, 1.0])
def test_blocks_join_without_a_seam(organ: str, shrink: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the grid of blocks, the same picture: nothing that a pixel depends on ends at a block's border."""
    spec = spec_of(organ, shape_hw=(330, 500), shrink=shrink, artefacts=ARTEFACTS)
    usual = SyntheticSlide(spec).whole()
    monkeypatch.setattr(slide_module, "_BLOCK_HW", (96, 160))
    other = SyntheticSlide(spec).whole()
    # Rounding in OpenCV's vectorised loops depends on the alignment: one grey level, here and there.
    away = np.abs(usual.image_HWC.astype(int) - other.image_HWC)
    assert (away > 1).mean() < 1e-4
    assert (away > 0).mean() < 0.01
    assert (usual.mask_HW != other.mask_HW).mean() < 1e-4
    assert (usual.lumen_HW != other.lumen_HW).mean() < 1e-4


def test_differences_across_borders_are_those_inside() -> None:
    ratios = []
    for organ in ORGANS:
        picture = SyntheticSlide(spec_of(organ, shape_hw=(1024, 400))).whole()
        grey_HW = cv2.GaussianBlur(picture.image_HWC.astype(np.float32).mean(axis=2), (0, 0), 1.0)
        step_H = np.abs(np.diff(grey_HW, axis=0)).mean(axis=1)
        borders = np.arange(255, 1023, 256)
        ratios.append(step_H[borders] / np.mean([step_H[borders + away] for away in (-2, -1, 1, 2)], axis=0))
    assert 0.95 < np.mean(ratios) < 1.05
    assert np.max(ratios) < 1.3


@pytest.mark.parametrize("organ", ORGANS)
def test_same_key_same_bytes_and_another_key_another_slide(organ: str) -> None:
    first, again = (SyntheticSlide(spec_of(organ, "eosin")) for _ in range(2))
    other = SyntheticSlide(spec_of(organ, "eosin", key=(7, 2)))
    assert_same(first.whole(), again.whole())
    assert (first.ftu_count, first.zones) == (again.ftu_count, again.zones)
    assert (first.whole().mask_HW != other.whole().mask_HW).mean() > 0.02
    # Sensor noise is of the key, too: glass is not the same glass.
    assert not np.array_equal(first.whole().image_HWC, other.whole().image_HWC)


@pytest.mark.parametrize("organ", ORGANS)
@pytest.mark.parametrize("shape_hw", [(1, 1), (48, 64), (160, 170)])
@pytest.mark.parametrize(("pixel_size_um", "shrink"), [(0.229, 0.2), (0.4, 1.0), (0.4, 1 / 3), (6.263, 0.2)])
def test_there_is_a_unit_however_small_the_slide(
    organ: str, shape_hw: tuple[int, int], pixel_size_um: float, shrink: float
) -> None:
    for seed in range(1 if pixel_size_um > 1 else 2):
        spec = spec_of(organ, "dab", key=(seed,), shape_hw=shape_hw, pixel_size_um=pixel_size_um, shrink=shrink)
        slide = SyntheticSlide(spec)
        picture = slide.whole()
        assert picture.image_HWC.shape == (*shape_hw, 3)
        assert picture.mask_HW.any()
        assert not (picture.lumen_HW & ~picture.mask_HW).any()
        assert slide.ftu_count >= 1


@pytest.mark.parametrize("kind", ARTEFACTS)
def test_artefacts_change_the_image_where_they_lie_and_never_the_truth(kind: str) -> None:
    plain, disturbed = (SyntheticSlide(spec_of(key=(5,), artefacts=kinds)) for kinds in ((), (kind,)))
    assert plain.artefact_regions == []
    assert {name for name, _ in disturbed.artefact_regions} == {kind}
    assert np.array_equal(plain.whole().mask_HW, disturbed.whole().mask_HW)
    assert np.array_equal(plain.whole().lumen_HW, disturbed.whole().lumen_HW)
    changed = (plain.whole().image_HWC.astype(int) - disturbed.whole().image_HWC).any(axis=2)
    inside = np.zeros_like(changed)
    for _, (y0, x0, y1, x1) in disturbed.artefact_regions:
        inside[y0:y1, x0:x1] = True
    assert changed[inside].mean() > 0.05
    assert changed[~inside].mean() < 1e-3


def test_a_fold_is_dark_a_bubble_ringed_and_a_blur_smooth() -> None:
    def grey_with(kind: str) -> tuple[np.ndarray, list]:
        slide = SyntheticSlide(
            spec_of("spleen", "eosin", key=(2,), shape_hw=(400, 500), artefacts=(kind,) if kind else ())
        )
        grey_HW = slide.whole().image_HWC.astype(np.float32).mean(axis=2)
        # Against the sensor's noise, which a lens does not blur.
        return cv2.GaussianBlur(grey_HW, (0, 0), 1.0), slide.artefact_regions

    plain_HW, _ = grey_with("")
    changes = {kind: grey_with(kind)[0] - plain_HW for kind in ("fold", "bubble", "pen")}
    assert changes["fold"].min() < -30
    assert changes["fold"].max() < 25
    assert changes["bubble"].min() < -60
    assert changes["bubble"].max() > 20
    assert changes["pen"].min() < -60
    blurred_HW, regions = grey_with("blur")
    (_, (y0, x0, y1, x1)) = regions[0]
    middle = np.s_[max((y0 + y1) // 2 - 15, 0) : (y0 + y1) // 2 + 15, max((x0 + x1) // 2 - 15, 0) : (x0 + x1) // 2 + 15]
    assert np.abs(np.diff(blurred_HW[middle])).mean() < 0.5 * np.abs(np.diff(plain_HW[middle])).mean()


def test_jpeg_leaves_blocks_and_the_truth() -> None:
    plain, pressed = (SyntheticSlide(spec_of(jpeg_quality=quality)).whole() for quality in (0, 20))
    assert np.array_equal(plain.mask_HW, pressed.mask_HW)
    away = plain.image_HWC.astype(float) - pressed.image_HWC
    assert 1 < np.abs(away).mean() < 12
    grey_HW = pressed.image_HWC.astype(float).mean(axis=2)
    step_W = np.abs(np.diff(grey_HW, axis=1)).mean(axis=0)
    at_border = np.arange(len(step_W)) % 8 == 7
    assert step_W[at_border].mean() > 1.1 * step_W[~at_border].mean()


def test_a_thicker_section_is_darker_and_less_sharp() -> None:
    thin, thick = (SyntheticSlide(spec_of("spleen", thickness_um=um)).whole() for um in (3.0, 10.0))
    grey = [picture.image_HWC.astype(float).mean(axis=2) for picture in (thin, thick)]
    assert grey[1].mean() < grey[0].mean() - 5
    sharpness = [np.abs(np.diff(plane)).mean() / (245 - plane.mean()) for plane in grey]
    assert sharpness[1] < 0.9 * sharpness[0]


def test_a_large_kidney_section_has_glass_cortex_and_medulla() -> None:
    """8 x 10 mm at 8 um, read whole: an outline of its own, and glomeruli in the cortex alone."""
    slide = SyntheticSlide(spec_of("kidney", key=(3,), shape_hw=(1000, 1250), pixel_size_um=8.0, shrink=1.0))
    assert set(slide.zones) == {"Cortex", "Medulla"}
    zones = {}
    for name, rings in slide.zones.items():
        zone = np.zeros(slide.shape_hw, dtype=np.uint8)
        for ring in rings:
            assert ring[0] == ring[-1]
            cv2.fillPoly(zone, [np.round(ring).astype(np.int32)], color=1)
        zones[name] = zone > 0
    assert zones["Medulla"].mean() > 0.03
    assert (zones["Medulla"] & ~zones["Cortex"]).sum() < 0.2 * zones["Medulla"].sum()
    # A coarse look at the ground alone: the pixels at this scale would take half a minute.
    glass = ~(zones["Cortex"] | zones["Medulla"])
    assert 0.1 < glass.mean() < 0.6
    assert glass[0].all()
    assert glass[-1].all()
    part = np.s_[500:564, 600:664]
    picture = slide.read(*part)
    assert not (picture.mask_HW & zones["Medulla"][part]).any()


@pytest.mark.parametrize("organ", ["lung", "spleen"])
def test_only_kidneys_have_zones(organ: str) -> None:
    assert SyntheticSlide(spec_of(organ)).zones == {}


def test_small_kidneys_are_cortex() -> None:
    zones = SyntheticSlide(spec_of("kidney")).zones
    assert zones["Medulla"] == []
    assert len(zones["Cortex"]) >= 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"organ": "liver"}, "kidney, largeintestine"),
        ({"artefacts": ("dust",)}, "fold, blur, bubble, pen"),
        ({"shape_hw": (0, 5)}, "shape_hw"),
        ({"pixel_size_um": 0.0}, "pixel_size_um"),
        ({"shrink": float("nan")}, "shrink"),
        ({"jpeg_quality": 101}, "jpeg_quality"),
        ({"key": (1, -1)}, "key"),
    ],
)
def test_bad_specs_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec_of(**wrong)


def test_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="must be 1"):
        SyntheticSlide(spec_of()).read(slice(0, 10, 2), slice(0, 10))
