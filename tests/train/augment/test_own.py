"""Pipelines of the user's own: what their steps see, how they are seeded and refused, and that their content counts."""

import pickle
import sys
from collections import Counter
from itertools import product
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import pytest
import yaml

from histofold.core.faults import InputError
from histofold.data.tiles.labels import IGNORED_LABEL
from histofold.schema.augment import AugmentConfig
from histofold.train.augment.own import load_pipeline, pipeline_digest
from histofold.train.augment.pipeline import Augmenter
from histofold.train.augment.steps import MOVES, Move, TransferStain, own_names

SIDE = 64
FOUR = [{"__class_fullname__": name, "p": 0.5} for name in ("InvertImg", "HorizontalFlip", "VerticalFlip", "Transpose")]


def picture(seed=0, side=SIDE):
    noise_HWC = cv2.GaussianBlur(np.random.default_rng(seed).standard_normal((side, side, 3)), (0, 0), 4)
    return np.clip(150 + 40 * noise_HWC / noise_HWC.std(), 0, 255).astype(np.uint8)


def patterns(side=SIDE):
    """Squares of 8 pixels of all bits but the seventh, so that a mixture of two would show."""
    values = np.arange(64) % 8 + 128 * (np.arange(64) // 32)
    return np.kron(values.reshape(8, 8), np.ones((side // 8, side // 8), int)).astype(np.uint8)


@pytest.fixture
def write(tmp_path):
    """Writes steps, given as their tables, as a file; gives its name."""

    def write(*steps, name="own.yaml"):
        path = tmp_path / name
        path.write_text(yaml.safe_dump({"transform": {"__class_fullname__": "Compose", "transforms": list(steps)}}))
        return str(path)

    return write


def augmenter(pipeline, side=SIDE, preset="none", **settings):
    return Augmenter(AugmentConfig(preset=preset, pipeline=pipeline, **settings), side)


def test_steps_of_one_probability_happen_each_by_itself(write):
    """All sixteen combinations of four steps of p = 0.5 come equally often: chi-square of 15 degrees at 0.001."""
    image_HWC, bits_HW = picture(side=8), patterns(8)
    expected = {}
    for flags in product((False, True), repeat=4):
        steps = [A.from_dict({"transform": {**step, "p": float(flag)}}) for step, flag in zip(FOUR, flags, strict=True)]
        expected[A.Compose(steps)(image=image_HWC)["image"].tobytes()] = flags
    own, draws = augmenter(write(*FOUR), 8), 1600
    found = Counter(expected[own(image_HWC, bits_HW, (0, n // 40, n % 40)).image_HWC.tobytes()] for n in range(draws))
    assert len(expected) == len(found) == 16
    assert sum((count - draws / 16) ** 2 / (draws / 16) for count in found.values()) < 37.7


def test_the_key_alone_decides_whatever_came_before_and_wherever(write):
    pipeline = write(
        {"__class_fullname__": "ElasticTransform", "p": 0.7},
        {
            "__class_fullname__": "OneOf",
            "p": 0.9,
            "transforms": [{"__class_fullname__": "GaussNoise", "p": 1.0}, FOUR[1]],
        },
        {"__class_fullname__": "histofold.Move", "p": 0.8, "pixel_size": 0.5, "rotate90": 1.0},
        {"__class_fullname__": "histofold.TransferStain", "p": 0.6},
    )
    first = augmenter(pipeline, preset="strong", cutmix=0.0)
    elsewhere = pickle.loads(pickle.dumps(first))
    for position in range(7):
        elsewhere(picture(3), patterns(), (1, position, 0))
    keys = [(0, 2, position) for position in range(6)]
    results = [first(picture(), patterns(), key) for key in keys]
    for key, result in zip(reversed(keys), reversed(results), strict=True):
        again = elsewhere(picture(), patterns(), key)
        assert (again.image_HWC == result.image_HWC).all()
        assert (again.mask_HW == result.mask_HW).all()
        assert again.log_zoom == result.log_zoom
    assert len({result.image_HWC.tobytes() for result in results}) == 6


def test_ours_draw_the_same_whatever_stands_behind_them(write):
    plain, more = (
        augmenter("", preset="medium"),
        augmenter(write({"__class_fullname__": "InvertImg", "p": 1.0}), preset="medium"),
    )
    for position in range(5):
        alone, followed = (each(picture(), patterns(), (0, 0, position)) for each in (plain, more))
        assert (followed.image_HWC == 255 - alone.image_HWC).all()
        assert (followed.mask_HW == alone.mask_HW).all()


@pytest.mark.parametrize(
    "step",
    [
        {"__class_fullname__": "Affine", "scale": [0.7, 1.4], "rotate": [-45, 45], "p": 1.0},
        {"__class_fullname__": "ElasticTransform", "alpha": 60.0, "p": 1.0},
        {"__class_fullname__": "GridDistortion", "p": 1.0, "mask_interpolation": 1},
        {"__class_fullname__": "CoarseDropout", "fill_mask": 128, "p": 1.0},
        {"__class_fullname__": "histofold.Move", "elastic": 1.0, "affine": 1.0, "grid": 1.0},
    ],
    ids=lambda step: step["__class_fullname__"],
)
def test_masks_of_several_classes_and_ignored_pixels_keep_their_values(write, step):
    own, seen = augmenter(write({"p": 1.0, **step})), set()
    for position in range(8):
        seen |= set(np.unique(own(picture(), patterns(), (0, 0, position)).mask_HW))
    assert seen == set(np.unique(patterns()))


@pytest.mark.parametrize(
    "step",
    [
        {"__class_fullname__": "Affine", "scale": [0.7, 1.4], "rotate": [-45, 45]},
        {"__class_fullname__": "CoarseDropout", "fill_mask": IGNORED_LABEL},
        {"__class_fullname__": "histofold.Move", "elastic": 1.0, "affine": 1.0, "grid": 1.0},
    ],
    ids=lambda step: step["__class_fullname__"],
)
def test_labels_of_objects_keep_their_values(write, step):
    labels_HW = patterns().astype(np.uint16) * 300
    config = AugmentConfig(preset="none", pipeline=write({"p": 1.0, **step}))
    own = Augmenter(config, SIDE, labels=True)
    for position in range(4):
        moved_HW = own(picture(), labels_HW, (0, 0, position)).mask_HW
        assert moved_HW.dtype == np.uint16
        assert set(np.unique(moved_HW)) <= {*np.unique(labels_HW), IGNORED_LABEL}


def test_a_step_that_makes_up_objects_is_refused(write):
    config = AugmentConfig(
        preset="none", pipeline=write({"__class_fullname__": "CoarseDropout", "fill_mask": 9, "p": 1.0})
    )
    with pytest.raises(InputError, match=f"does not show; fill masks with 0, or with {IGNORED_LABEL}"):
        Augmenter(config, SIDE, labels=True)


def test_steps_see_bytes_of_the_crop_and_bits_of_the_mask(monkeypatch):
    seen = []

    class Looks(A.DualTransform):
        def apply(self, img, **params):
            seen.append((img.dtype, img.shape))
            return img

        def apply_to_mask(self, mask, **params):
            seen.append((mask.dtype, mask.shape, set(np.unique(mask))))
            return mask

    monkeypatch.setattr("histofold.train.augment.own._from_function", lambda _: A.Compose([Looks(p=1.0)]))
    own = augmenter("looks:steps", 96, crop=32)
    seen.clear()
    own(picture(side=96), np.full((96, 96), 129, np.uint8), (0, 0, 0))
    assert seen == [(np.uint8, (32, 32, 3)), (np.uint8, (32, 32), {129})]


def test_zooms_of_ours_are_told_and_add_up(write):
    once = augmenter(write({"__class_fullname__": "histofold.Move", "p": 1.0, "pixel_size": 1.0}))
    preset = augmenter("", pixel_size=1.0)
    mixed = augmenter(write({"__class_fullname__": "HueSaturationValue", "p": 1.0}, name="hue.yaml"), pixel_size=1.0)
    zooms = [[each(picture(), patterns(), (0, 0, n)).log_zoom for n in range(6)] for each in (once, preset, mixed)]
    assert zooms[1] == zooms[2]
    assert all(0 < abs(zoom) <= np.log(2) for zoom in (*zooms[0], *zooms[1]))
    moves = [
        A.Compose([Move(pixel_size=1.0)], seed=2)(image=picture(), log_zoom=zoom)["log_zoom"] for zoom in (0.0, 5.0)
    ]
    assert moves[1] - moves[0] == pytest.approx(5)


def test_the_example_of_the_documentation_works(tmp_path):
    page = (Path(__file__).parents[3] / "docs" / "training.md").read_text()
    (tmp_path / "my.yaml").write_text(page.split("```yaml\n")[1].split("```")[0])
    examples = [augmenter(str(tmp_path / "my.yaml"))(picture(), patterns(), (0, 0, n)) for n in range(12)]
    assert {example.image_HWC.shape for example in examples} == {(SIDE, SIDE, 3)}
    assert len({example.log_zoom for example in examples}) > 1


@pytest.mark.parametrize("name", own_names())
def test_every_step_of_ours_can_be_saved_and_loaded(tmp_path, name):
    step = A.from_dict({"transform": {"__class_fullname__": name, "p": 0.25}})
    A.save(A.Compose([step]), tmp_path / "own.yaml", data_format="yaml")
    loaded = load_pipeline(str(tmp_path / "own.yaml"))
    assert loaded[0][0].to_dict() == step.to_dict()
    assert loaded[0][0].p == 0.25
    image_HWC = augmenter(str(tmp_path / "own.yaml"))(picture(), patterns(), (0, 0, 0)).image_HWC
    assert image_HWC.shape == (SIDE, SIDE, 3)


@pytest.mark.parametrize(
    ("step", "rule"),
    [
        (
            {"__class_fullname__": "RandomCrop", "height": 32, "width": 48, "p": 0.1},
            r"image uint8 of \(32, 48, 3\).*crop",
        ),
        ({"__class_fullname__": "Resize", "height": 96, "width": 64, "p": 1.0}, r"must stay uint8 of \(64, 64, 3\)"),
        ({"__class_fullname__": "Normalize", "p": 0.01}, r"image float32.*the device normalises"),
        ({"__class_fullname__": "CoarseDropout", "fill_mask": 64, "p": 1.0}, "that it does not show"),
        ({"__class_fullname__": "CenterCrop", "height": 96, "width": 96, "p": 1.0}, "fails on a tile of 64 pixels"),
    ],
)
def test_what_gives_no_example_is_refused_before_the_first_step(write, step, rule):
    with pytest.raises(InputError, match=f"own.yaml.*{rule}"):
        augmenter(write(step))


def test_a_crop_that_is_brought_back_to_its_size_is_none(write):
    crop = {"__class_fullname__": "RandomCrop", "height": 48, "width": 32, "p": 1.0}
    own = augmenter(write(crop, {"__class_fullname__": "Resize", "height": SIDE, "width": SIDE, "p": 1.0}))
    assert own(picture(), patterns(), (0, 0, 0)).mask_HW.shape == (SIDE, SIDE)


def test_all_unknown_names_are_told_with_those_that_are_known(write):
    steps = [{"__class_fullname__": "HorizontalFlop", "p": 1.0}, {"__class_fullname__": "histofold.Stain", "p": 1.0}]
    nested = {"__class_fullname__": "OneOf", "p": 1.0, "transforms": steps}
    with pytest.raises(InputError) as caught:
        load_pipeline(write(nested))
    assert [fault.rule for fault in caught.value.faults] == [
        "HorizontalFlop is no transform",
        "histofold.Stain is no transform",
    ]
    assert all("histofold.TransferStain" in fault.remedy for fault in caught.value.faults)
    assert all(fault.file.endswith("own.yaml") for fault in caught.value.faults)


@pytest.mark.parametrize(
    ("step", "rule"),
    [
        ({"__class_fullname__": "Blur", "blur": 3, "p": 1.0}, "'blur' are not valid"),
        ({"__class_fullname__": "Blur"}, "no 'p' parameter"),
        ({"__class_fullname__": "HorizontalFlip", "p": 1.5}, "less than or equal to 1"),
        ({"__class_fullname__": "histofold.AddNoise", "p": 1.0, "strength": 2.0}, r"must lie in \[0, 1\]"),
        ({"__class_fullname__": "histofold.ShowGrey", "p": 1.0, "power": 2.0}, "no setting power: it has p"),
        ({"__class_fullname__": "histofold.Move", "p": 1.0, "turn": 2.0}, "knows no turn: it moves by flip"),
        ({"__class_fullname__": "histofold.Move", "p": 1.0, "flip": 2.0}, "flip=2.0 is a probability"),
    ],
)
def test_settings_that_do_not_fit_are_refused(write, step, rule):
    with pytest.raises(InputError, match=f"{step['__class_fullname__']}: .*{rule}"):
        load_pipeline(write(step))


def test_all_settings_that_do_not_fit_are_told(write):
    steps = [{"__class_fullname__": "RandomCrop", "p": 1.0, "height": -3}, {"__class_fullname__": "Blur"}, *FOUR]
    with pytest.raises(InputError) as caught:
        load_pipeline(write({"__class_fullname__": "OneOf", "p": 1.0, "transforms": steps}))
    first, second = (fault.rule for fault in caught.value.faults)
    assert first.startswith("RandomCrop: height: Input should be greater")
    assert "width: Field required" in first
    assert second.startswith("Blur: ")


@pytest.mark.parametrize(
    ("text", "rule"),
    [("transform: [", "not a YAML file"), ("steps: 3", "no key `transform`"), (None, "No such file.*check the path")],
)
def test_files_that_cannot_be_read_are_refused(tmp_path, text, rule):
    path = tmp_path / "own.yml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=f"augment.pipeline.*own.yml.*{rule}"):
        load_pipeline(str(path))


def test_a_setting_that_is_neither_file_nor_function_is_refused():
    with pytest.raises(ValueError, match="must be a file"):
        AugmentConfig(pipeline="own.toml")


def test_functions_give_pipelines_and_their_source_counts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    source = "import albumentations as A\ndef less(image, **_):\n    return image // 2\n"
    source += "def steps():\n    return A.Lambda(image=less, p=1.0)\n"
    digests = []
    for name, text in (("own_halves", source), ("own_thirds", source.replace("// 2", "// 3"))):
        (tmp_path / f"{name}.py").write_text(text)
        digests.append(pipeline_digest(f"{name}:steps"))
        assert digests[-1] == pipeline_digest(f"{name}:steps")
    assert digests[0] != digests[1]
    image_HWC = augmenter("own_halves:steps")(picture(), patterns(), (0, 0, 0)).image_HWC
    assert (image_HWC == picture() // 2).all()
    (tmp_path / "own_broken.py").write_text("def steps():\n    return 3\n")
    for name, rule in (("own_broken:steps", "int, no pipeline"), ("own_broken:other", "no attribute 'other'")):
        with pytest.raises(InputError, match=rule):
            load_pipeline(name)
    with pytest.raises(InputError, match="No module named 'own_absent'"):
        load_pipeline("own_absent:steps")


def test_the_digest_is_of_the_steps_and_not_of_the_file(write, tmp_path):
    first = write(*FOUR)
    digest = pipeline_digest(first)
    assert pipeline_digest(write(*FOUR, name="moved.yaml")) == digest
    (tmp_path / "own.yaml").write_text("# by hand\n" + (tmp_path / "own.yaml").read_text())
    assert pipeline_digest(first) == digest
    assert pipeline_digest(write(*FOUR[:3], {**FOUR[3], "p": 0.4})) != digest
    assert pipeline_digest(write(*FOUR[:3])) != digest


def test_ours_stand_in_anybodys_pipeline():
    """Outside of training they draw as all transforms do: one seed, one result, and never twice the same."""
    pictures = []
    for _ in range(2):
        compose = A.Compose([Move(rotate90=1.0, flip=0.5, elastic=0.5), TransferStain(p=1.0)], seed=3)
        pictures.append([compose(image=picture(), mask=patterns())["image"].tobytes() for _ in range(4)])
    assert pictures[0] == pictures[1]
    assert len(set(pictures[0])) == 4
    assert set(MOVES) <= {*AugmentConfig.__dataclass_fields__}
