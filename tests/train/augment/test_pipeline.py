"""The augmentation as a whole: presets, what hangs on the key, how masks and images move, and the pixel size shown."""

from dataclasses import fields, replace

import cv2
import numpy as np
import pytest

from histofold.core.faults import InputError
from histofold.schema.augment import AUGMENT_PRESETS
from histofold.schema.experiment import AugmentConfig, Experiment
from histofold.schema.parse import load_toml, parse_dataclass, to_toml
from histofold.train.augment.pipeline import Augmenter

STRENGTHS = ("scale", "rotate", "colour_strength", "hed_strength", "pixel_size_ratio", "detail_ratio")
PROBABILITIES = tuple(name for name in AUGMENT_PRESETS["medium"] if name not in (*STRENGTHS, "cutmix"))
GEOMETRIC = ("flip", "rotate90", "affine", "pixel_size", "elastic", "grid")
OFF = AugmentConfig(preset="strong", **dict.fromkeys(PROBABILITIES, 0.0))
ALL = replace(OFF, **dict.fromkeys(PROBABILITIES, 1.0))


def only(*names, **settings):
    return replace(OFF, **dict.fromkeys(names, 1.0), **settings)


def smooth_tile(side=96, seed=0):
    noise_HWC = cv2.GaussianBlur(np.random.default_rng(seed).standard_normal((side, side, 3)), (0, 0), 4)
    return np.clip(128 + 60 * noise_HWC / noise_HWC.std(), 0, 255).astype(np.uint8)


def random_bits(side=96, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (side, side), np.uint8)


def test_the_preset_medium_is_what_was_usual_before_there_were_presets():
    usual = {"flip": 0.5, "rotate90": 1.0, "affine": 0.5, "scale": 0.2, "rotate": 20.0, "sharpness": 0.2}
    usual |= {"colour": 0.5, "colour_strength": 0.2, "hed": 0.5, "hed_strength": 0.06}
    resolved = AugmentConfig().resolved()
    assert {name: getattr(resolved, name) for name in usual} == usual
    others = [name for name in PROBABILITIES if name not in usual]
    assert {getattr(resolved, name) for name in (*others, "cutmix", "stain_template")} == {0.0}


@pytest.mark.parametrize("preset", AUGMENT_PRESETS)
def test_resolving_gives_every_field_and_changes_none_that_is_given(preset):
    config = AugmentConfig(preset=preset, flip=0.125, hed_strength=0.0, crop=64)
    resolved = config.resolved()
    assert all(getattr(resolved, each.name) is not None for each in fields(resolved))
    assert (resolved.flip, resolved.hed_strength, resolved.crop) == (0.125, 0.0, 64)
    assert resolved.colour == AUGMENT_PRESETS[preset]["colour"]
    assert resolved.resolved() == resolved


def test_presets_decide_the_same_fields_all_of_which_may_be_left_open():
    open_fields = {each.name for each in fields(AugmentConfig) if each.default is None}
    assert all(set(preset) == open_fields for preset in AUGMENT_PRESETS.values())
    light, medium, strong = (AUGMENT_PRESETS[name] for name in ("light", "medium", "strong"))
    assert all(light[name] <= medium[name] <= strong[name] for name in open_fields)


def test_a_file_keeps_what_it_names_and_a_preset_changes_the_rest(tmp_path):
    file = tmp_path / "e.toml"
    file.write_text('[augment]\npreset = "strong"\ngrey = 0.9\n')
    experiment = load_toml(Experiment, file)
    resolved = experiment.augment.resolved()
    assert (resolved.grey, resolved.elastic) == (0.9, AUGMENT_PRESETS["strong"]["elastic"])
    file.write_text(to_toml(experiment))
    assert load_toml(Experiment, file) == experiment
    with pytest.raises(InputError, match="preset"):
        parse_dataclass(AugmentConfig, {"preset": "weak"}, "e.toml")


@pytest.mark.parametrize(
    "settings",
    [
        {"elastic": 1.1},
        {"cutout": -0.1},
        {"cutmix": 2.0},
        {"rotate": -1.0},
        {"scale": 1.0},
        {"jpeg_quality": 0},
        {"pixel_size_ratio": 0.9},
        {"detail_ratio": 17.0},
        {"crop": 33},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        AugmentConfig(**settings)


@pytest.mark.parametrize("config", [*map(only, PROBABILITIES), ALL], ids=[*PROBABILITIES, "all"])
def test_the_key_alone_decides(config):
    image_HWC, bits_HW = smooth_tile(), random_bits()
    before_HWC = image_HWC.copy()
    first, second = Augmenter(config, 96), Augmenter(config, 96)
    for position in range(5):
        second(smooth_tile(seed=3), bits_HW, (1, position, 0))
    results = [augmenter(image_HWC, bits_HW, (0, 7, 2)) for augmenter in (first, second)]
    assert (results[0].image_HWC == results[1].image_HWC).all()
    assert (results[0].mask_HW == results[1].mask_HW).all()
    assert results[0].log_zoom == results[1].log_zoom
    assert (image_HWC == before_HWC).all()
    drawn = {first(image_HWC, bits_HW, key).image_HWC.tobytes() for key in np.ndindex(2, 2, 3)}
    # Certain flips and grey draw nothing; small neighbourhoods are equalised alike whatever the limit.
    assert len(drawn) > 1 or config in map(only, ("flip", "grey", "clahe"))


def test_no_step_disturbs_the_draws_of_another():
    image_HWC, bits_HW = smooth_tile(), random_bits()
    every = Augmenter(only(*GEOMETRIC), 96)
    coloured = Augmenter(only(*GEOMETRIC, "colour", "jpeg", "cutout"), 96)
    for position in range(5):
        key = (0, 0, position)
        assert (every(image_HWC, bits_HW, key).mask_HW == coloured(image_HWC, bits_HW, key).mask_HW).all()


@pytest.mark.parametrize("config", [*map(only, PROBABILITIES), ALL], ids=[*PROBABILITIES, "all"])
@pytest.mark.parametrize("crop", [0, 64])
def test_what_comes_out_is_uint8_contiguous_and_of_the_right_size(config, crop):
    side = crop or 96
    for position in range(4):
        tile = (smooth_tile(), random_bits(), (0, 0, position))
        image_HWC, bits_HW, log_zoom = Augmenter(replace(config, crop=crop), 96)(*tile)
        assert (image_HWC.shape, bits_HW.shape) == ((side, side, 3), (side, side))
        assert image_HWC.dtype == bits_HW.dtype == np.uint8
        assert image_HWC.flags["C_CONTIGUOUS"]
        assert bits_HW.flags["C_CONTIGUOUS"]
        assert isinstance(log_zoom, float)
        assert np.isfinite(log_zoom)


@pytest.mark.parametrize("value", [0, 244, 255])
def test_blank_tiles_pass_through_everything(value):
    blank_HWC, bits_HW = np.full((64, 64, 3), value, np.uint8), np.zeros((64, 64), np.uint8)
    for position in range(10):
        image_HWC, new_HW, _ = Augmenter(ALL, 64)(blank_HWC, bits_HW, (0, 0, position))
        assert image_HWC.shape == (64, 64, 3)
        assert not new_HW.any()


@pytest.mark.parametrize("shape_hw", [(1, 1), (40, 96), (95, 7), (200, 31)])
def test_a_tile_smaller_than_the_example_is_reflected_as_numpy_does(shape_hw):
    rng = np.random.default_rng(0)
    image_HWC = rng.integers(0, 256, (*shape_hw, 3), np.uint8)
    bits_HW = rng.integers(0, 256, shape_hw, np.uint8)
    pads = [((96 - side) // 2, 96 - side - (96 - side) // 2) if side < 96 else (0, 0) for side in shape_hw]
    example = Augmenter(OFF, 96)(image_HWC, bits_HW, (0, 0, 0))
    assert example.mask_HW.shape == (96, 96)
    whole_HW, whole_HWC = np.pad(bits_HW, pads, mode="reflect"), np.pad(image_HWC, (*pads, (0, 0)), mode="reflect")
    places = [y for y in range(len(whole_HW) - 95) if (whole_HW[y : y + 96] == example.mask_HW).all()]
    assert len(places) == 1, "a piece of what numpy makes of it"
    np.testing.assert_array_equal(example.image_HWC, whole_HWC[places[0] : places[0] + 96])
    assert Augmenter(ALL, 96)(image_HWC, bits_HW, (0, 0, 0)).image_HWC.shape == (96, 96, 3)


def test_with_all_off_an_example_is_its_tile():
    image_HWC, bits_HW = smooth_tile(), random_bits()
    new_HWC, new_HW, log_zoom = Augmenter(OFF, 96)(image_HWC, bits_HW, (0, 0, 0))
    assert (new_HWC == image_HWC).all()
    assert (new_HW == bits_HW).all()
    assert log_zoom == 0


@pytest.mark.parametrize("name", [*GEOMETRIC, "all"])
def test_every_value_of_a_mask_survives_and_no_other_appears(name):
    """Squares of 12 pixels of all the 64 patterns below; each is found again after the move, as it was."""
    patterns = np.arange(64) * 4 + 3
    bits_HW = np.kron(patterns.reshape(8, 8), np.ones((12, 12), int)).astype(np.uint8)
    config = only(*GEOMETRIC) if name == "all" else only(name)
    seen = set()
    for position in range(12):
        new_HW = Augmenter(config, 96)(smooth_tile(), bits_HW, (0, 0, position)).mask_HW
        assert set(np.unique(new_HW)) <= set(patterns)
        seen |= set(np.unique(new_HW))
    assert seen == set(patterns)


@pytest.mark.parametrize("name", [*GEOMETRIC, "all"])
@pytest.mark.parametrize("crop", [0, 64])
def test_image_and_mask_stay_aligned(name, crop):
    """The mask is a function of the colour: after each move it is that function of the new colour, but on borders."""
    disc_HW = (np.hypot(*(np.mgrid[:96, :96] - np.array([40, 55])[:, None, None])) < 22).astype(np.uint8)
    disc_HW[5:30, 60:90] = 1
    image_HWC = np.repeat(disc_HW[..., None] * 255, 3, axis=2)
    config = replace(only(*GEOMETRIC) if name == "all" else only(name), crop=crop)
    for position in range(20):
        new_HWC, new_HW, _ = Augmenter(config, 96)(image_HWC, disc_HW * 129, (0, 0, position))
        told_HW = new_HWC[..., 1] > 127
        sure_HW = (new_HWC[..., 1] < 60) | (new_HWC[..., 1] > 195)
        assert ((new_HW > 0) == told_HW)[sure_HW].all()
        assert sure_HW.mean() > 0.85
        assert set(np.unique(new_HW)) <= {0, 129}


def test_a_mask_of_one_pixel_moves_with_its_pixel():
    for position in range(20):
        image_HWC, bits_HW = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8)
        image_HWC[0, 63], bits_HW[0, 63] = 255, 128
        new_HWC, new_HW, _ = Augmenter(only("flip", "rotate90"), 64)(image_HWC, bits_HW, (0, 0, position))
        assert (new_HWC[..., 0] == 255).sum() == 1
        assert ((new_HWC[..., 0] == 255) == (new_HW == 128)).all()


def test_symmetries_and_crops_are_exact_pieces_of_the_tile():
    image_HWC = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    bits_HW, seen = random_bits(), set()
    symmetries = [
        (lambda array, k=k, flip=flip: np.rot90(array[:, ::-1] if flip else array, k))
        for k in range(4)
        for flip in (0, 1)
    ]
    for position in range(60):
        key = (0, 0, position)
        new_HWC, new_HW, _ = Augmenter(only("rotate90", flip=0.5, crop=32), 96)(image_HWC, bits_HW, key)
        found = [
            (number, y, x)
            for number, undo in enumerate(symmetries)
            for y, x in np.argwhere((image_HWC[:65, :65] == undo(new_HWC)[0, 0]).all(axis=2))
            if (image_HWC[y : y + 32, x : x + 32] == undo(new_HWC)).all()
        ]
        assert len(found) == 1
        number, y, x = found[0]
        assert (symmetries[number](new_HW) == bits_HW[y : y + 32, x : x + 32]).all()
        seen.add(number)
    assert seen == set(range(8))


def measured_matrix(new_HWC, side):
    """The linear map from places of the example to those of the tile, told by two ramps of grey in its colours."""
    rows, columns = np.mgrid[: len(new_HWC), : len(new_HWC)].reshape(2, -1)
    inside = ((new_HWC[..., :2] > 5) & (new_HWC[..., :2] < 250)).all(axis=2).ravel()
    places = np.column_stack([rows, columns, np.ones(rows.size)])[inside]
    solved, *_ = np.linalg.lstsq(places, new_HWC[..., :2].reshape(-1, 2)[inside] * (side / 255), rcond=None)
    return solved[:2].T


@pytest.mark.parametrize("names", [("affine",), ("pixel_size",), ("affine", "pixel_size", "flip", "rotate90")])
def test_log_zoom_is_the_pixel_size_that_is_shown(names):
    side = 256
    ramps_HWC = np.zeros((side, side, 3), np.uint8)
    ramps_HWC[..., 0], ramps_HWC[..., 1] = np.mgrid[:side, :side]
    # Enlarged only, so that no reflected border is measured with it.
    config = only(*names, crop=64, scale=0.15)
    for position in range(30):
        augmented = Augmenter(config, side)(ramps_HWC, np.zeros((side, side), np.uint8), (0, 0, position))
        matrix_22 = measured_matrix(augmented.image_HWC, 255)
        measured = 0.5 * np.log(abs(np.linalg.det(matrix_22)))
        assert measured == pytest.approx(augmented.log_zoom, abs=0.03)
        assert augmented.log_zoom != 0


def test_stripes_have_the_period_that_log_zoom_tells():
    side, period = 512, 16
    stripes_W = 128 + 100 * np.sin(2 * np.pi * np.arange(side) / period)
    stripes_HWC = np.broadcast_to(stripes_W[None, :, None], (side, side, 3)).astype(np.uint8)
    found = []
    for position in range(20):
        config = only("pixel_size", crop=256)
        new_HWC, _, log_zoom = Augmenter(config, side)(stripes_HWC, np.zeros((side, side), np.uint8), (0, 0, position))
        row_W = (new_HWC[100, :, 0].astype(float) - 128) * np.hanning(256)
        spectrum = np.abs(np.fft.rfft(row_W, 256 * 64))
        found.append(256 * 64 / spectrum.argmax() / period)
        assert found[-1] == pytest.approx(np.exp(-log_zoom), rel=0.03)
    assert min(found) < 0.7
    assert max(found) > 1.4


def test_the_pixel_size_goes_as_far_as_its_ratio():
    config = only("pixel_size", pixel_size_ratio=1.4)
    augmenter, tile = Augmenter(config, 32), (smooth_tile(32), random_bits(32))
    zooms = np.exp([augmenter(*tile, (0, 0, position)).log_zoom for position in range(60)])
    assert 1 / 1.4 <= zooms.min() < 0.75
    assert 1.33 < zooms.max() <= 1.4


def test_detail_is_lost_as_far_as_its_ratio():
    fine_HWC = np.repeat((np.indices((96, 96)).sum(axis=0) // 3 % 2 * 255)[..., None], 3, axis=2).astype(np.uint8)
    left = {}
    for ratio in (1.0, 7.0):
        augmenter = Augmenter(only("detail", detail_ratio=ratio), 96)
        left[ratio] = [
            augmenter(fine_HWC, random_bits(), (0, 0, n)).image_HWC.std() / fine_HWC.std() for n in range(20)
        ]
    assert left[1.0] == [1.0] * 20
    assert min(left[7.0]) < 0.1


@pytest.mark.parametrize("name", [name for name in PROBABILITIES if name not in ("affine", "pixel_size")])
def test_only_scaling_changes_log_zoom(name):
    tile = (smooth_tile(), random_bits())
    assert {Augmenter(only(name), 96)(*tile, (0, 0, position)).log_zoom for position in range(5)} == {0.0}


def test_an_example_that_fits_shows_nothing_beyond_its_tile():
    """Each pixel of the tile has its own colour; reflected ones would come twice, on both sides of a line."""
    side = 200
    ramp_HWC = np.zeros((side, side, 3), np.uint8)
    ramp_HWC[..., 0], ramp_HWC[..., 1] = np.mgrid[:side, :side]
    for position in range(30):
        config = only("affine", "pixel_size", crop=64, rotate=45.0)
        new_HWC = Augmenter(config, side)(ramp_HWC, np.zeros((side, side), np.uint8), (0, 0, position)).image_HWC
        for channel in range(2):
            steps = np.diff(new_HWC[1:-1, 1:-1, channel].astype(int), axis=0)
            assert steps.min() >= -1 or steps.max() <= 1  # a mirror would turn the ramp


@pytest.mark.parametrize("config", [OFF, ALL, only("rotate90", flip=0.5, crop=64)], ids=["off", "all", "symmetries"])
def test_labels_of_16_bits_move_as_bits_do(config):
    image_HWC, bits_HW = smooth_tile(), random_bits()
    for position in range(5):
        key = (0, 0, position)
        moved = Augmenter(config, 96)(image_HWC, bits_HW, key)
        labelled = Augmenter(config, 96, labels=True)(image_HWC, bits_HW.astype(np.uint16) * 257, key)
        assert labelled.mask_HW.dtype == np.uint16
        assert labelled.mask_HW.flags["C_CONTIGUOUS"]
        np.testing.assert_array_equal(labelled.mask_HW, moved.mask_HW.astype(np.uint16) * 257)
        np.testing.assert_array_equal(labelled.image_HWC, moved.image_HWC)


def test_what_is_done_to_three_slices_is_done_to_those_beside_them():
    config = only(*GEOMETRIC, "sharpness", "thickness", "detail", "cutout", crop=64)
    five_HWC = np.concatenate([smooth_tile(), smooth_tile(seed=1)], axis=2)[:, :, :5]
    three_HWC, mask_HW = np.ascontiguousarray(five_HWC[..., 1:4]), random_bits()
    for key in range(12):
        five, three = (Augmenter(config, 96)(image_HWC, mask_HW, (0, key)) for image_HWC in (five_HWC, three_HWC))
        assert five.image_HWC.shape == (64, 64, 5)
        np.testing.assert_array_equal(five.mask_HW, three.mask_HW)
        np.testing.assert_allclose(five.image_HWC[..., 1:4].astype(int), three.image_HWC, atol=4)
    noisy = Augmenter(only("noise"), 96)(five_HWC, mask_HW, (0, 1))
    assert (noisy.image_HWC != five_HWC).any(axis=(0, 1)).all(), "each channel has noise of its own"
