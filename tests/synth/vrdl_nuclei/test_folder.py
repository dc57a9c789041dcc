"""The synthetic nuclei: one mask each, crowded, in several tissues and stains, the truth of the test elsewhere."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from histofold.synth.files import SPOILT, SynthKey
from histofold.synth.vrdl_nuclei.folder import make_vrdl_nuclei
from histofold.synth.vrdl_nuclei.scene import STAIN_STYLES, TISSUES, NucleiSpec, draw_nuclei_field

SIDE = 160


def read_png(path: Path) -> np.ndarray:
    read = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert read is not None, path
    return read


def files_below(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SynthKey:
    root = tmp_path_factory.mktemp("nuclei") / "competition"
    return make_vrdl_nuclei(root, num_train=6, num_test=4, seed=1, max_side=SIDE, test_faults=SPOILT, progress=False)


def test_the_layout_is_the_homeworks(key):
    for name in key.train_ids:
        folder = key.root / "train" / name
        assert read_png(folder / "images" / f"{name}.png").shape == (SIDE, SIDE, 3)
        masks = sorted((folder / "masks").iterdir())
        assert [mask.name for mask in masks] == [f"mask_{n:04d}.png" for n in range(1, len(masks) + 1)]
        layers = np.stack([read_png(mask) for mask in masks])
        assert set(np.unique(layers)) == {0, 255}
        assert (layers > 0).any(axis=(1, 2)).all()
        assert (layers > 0).sum(axis=0).max() == 1
    listed = json.loads((key.root / "test_img_ids.json").read_text())
    assert [entry["file_name"] for entry in listed] == [f"{name}.png" for name in key.test_ids]
    assert [entry["id"] for entry in listed] == [1, 2, 3, 4]
    assert {(entry["height"], entry["width"]) for entry in listed} == {(SIDE, SIDE)}


def test_the_truth_of_the_test_lies_outside_and_faults_are_in_the_folder_alone(key):
    assert not key.truth_path.is_relative_to(key.root)
    planted = {fault.kind: name for name, (fault,) in key.planted.items()}
    assert set(planted) == set(SPOILT)
    for name in key.test_ids:
        truth = key.truth_path / "train" / name
        assert read_png(truth / "images" / f"{name}.png").shape == (SIDE, SIDE, 3)
        assert list((truth / "masks").iterdir())
    folder = key.root / "test"
    assert {path.stem for path in folder.iterdir()} == set(key.test_ids) - {planted["missing"]}
    assert read_png(folder / f"{planted['one_pixel']}.png").shape[:2] == (1, 1)
    assert read_png(folder / f"{planted['grey']}.png").ndim == 2


def test_same_seed_same_bytes_another_seed_others(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        make_vrdl_nuclei(tmp_path / name, num_train=1, num_test=1, seed=seed, max_side=64, progress=False)
    files = {name: files_below(tmp_path / name) for name in ("a", "b", "c", "a_truth", "b_truth")}
    assert files["a"] == files["b"]
    assert files["a_truth"] == files["b_truth"]
    assert files["a"] != files["c"]


@pytest.mark.parametrize("tissue", TISSUES)
def test_nuclei_are_connected_darker_than_their_tissue_and_some_touch(tissue):
    spec = NucleiSpec(key=(7, 1), tissue=tissue, style="pink", shape_hw=(250, 333))
    image_HWC, labels_HW = draw_nuclei_field(spec)
    assert image_HWC.shape == (250, 333, 3)
    assert labels_HW.shape == (250, 333)
    numbers = np.unique(labels_HW)
    assert (numbers == np.arange(len(numbers))).all()
    assert len(numbers) > 15
    for number in numbers[1:]:
        # The field's edge is where the drawing is cropped: there a nucleus may fall into two.
        parts, _ = cv2.connectedComponents((labels_HW == number).astype(np.uint8), connectivity=4)
        at_edge = (labels_HW[-1] == number).any() or (labels_HW[:, -1] == number).any()
        assert parts == 2 or at_edge
    red = image_HWC[..., 0].astype(float)
    assert red[labels_HW > 0].mean() + 25 < red[labels_HW == 0].mean()
    right, left = labels_HW[:, 1:], labels_HW[:, :-1]
    assert ((right != left) & (right > 0) & (left > 0)).any(), "some touch"


def test_stains_differ_and_what_is_not_known_is_refused():
    means = [
        draw_nuclei_field(NucleiSpec(key=(7, 1), tissue="sheet", style=style, shape_hw=(64, 64)))[0].mean(axis=(0, 1))
        for style in STAIN_STYLES
    ]
    assert all(np.abs(one - other).max() > 4 for at, one in enumerate(means) for other in means[:at])
    with pytest.raises(ValueError, match="tissue 'bone'"):
        NucleiSpec(key=(0,), tissue="bone", style="pink", shape_hw=(64, 64))
    with pytest.raises(ValueError, match="must be above 0"):
        NucleiSpec(key=(0,), tissue="sheet", style="pink", shape_hw=(0, 64))
