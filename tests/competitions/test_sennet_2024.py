"""The adapter of volumes: slices, labels of several kinds, faults, rows and surface Dice."""

import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from histofold.competitions.base import Adapter
from histofold.competitions.registry import detect_competition
from histofold.competitions.sennet_2024 import Sennet2024
from histofold.core.faults import InputError
from histofold.core.metrics import surface_dice
from histofold.core.rle.runs import encode_rle, runs_from_mask
from histofold.imaging.slide import open_sample

SHAPE_DHW = (5, 20, 33)


def make_volume(root: Path, volume: str, seed: int, labels: bool = True, shape: tuple[int, int, int] = SHAPE_DHW):
    """Write a volume of noise with its labels; gives the labels."""
    rng = np.random.default_rng(seed)
    values_DHW = rng.integers(18_000, 37_000, shape).astype(np.uint16)
    truth_DHW = rng.random(shape) < 0.3
    for name, slices_DHW in (("images", values_DHW), ("labels", truth_DHW.astype(np.uint8) * (255 if seed % 2 else 1))):
        if name == "labels" and not labels:
            continue
        (root / "train" / volume / name).mkdir(parents=True)
        for number, slice_HW in enumerate(slices_DHW):
            cv2.imwrite(str(root / "train" / volume / name / f"{number:04d}.tif"), slice_HW)
    return truth_DHW


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_volume(tmp_path, "kidney_1_dense", 0)
    make_volume(tmp_path, "kidney_2", 1)
    return tmp_path


def test_equal_file_names_of_several_kidneys_are_several_samples(root):
    adapter = detect_competition(root)
    assert isinstance(adapter, Sennet2024)
    samples = adapter.samples(root, "train")
    assert [s.id for s in samples] == [f"{v}_{n:04d}" for v in ("kidney_1_dense", "kidney_2") for n in range(5)]
    assert {(s.source, s.group, s.shape_hw) for s in samples} == {
        ("kidney_1_dense", "kidney_1", (20, 33)),
        ("kidney_2", "kidney_2", (20, 33)),
    }


def test_labels_of_1_and_of_255_are_masks_and_run_lengths_stand_in_where_there_are_none(root):
    truth_DHW = make_volume(root, "kidney_3_sparse", 2, labels=False)
    texts = [encode_rle(mask_HW, order="C") or "1 0" for mask_HW in truth_DHW]
    texts[3], truth_DHW[3] = "1 0", False
    lines = [f"kidney_3_sparse_{number:04d},{text}" for number, text in enumerate(texts)]
    (root / "train_rles.csv").write_text("\n".join(["id,rle", *lines]))
    adapter = Sennet2024()
    for sample in adapter.samples(root, "train"):
        (_, volume), number = sample.id.split("kidney_"), int(sample.id[-4:])
        if volume.startswith("3"):
            np.testing.assert_array_equal(adapter.target(sample).to_mask(), truth_DHW[number])
        else:
            label_HW = cv2.imread(str(sample.image_path.parents[1] / "labels" / sample.image_path.name), -1)
            np.testing.assert_array_equal(adapter.target(sample).to_mask(), label_HW > 0)


def test_labels_alone_take_the_place_of_the_sparse_ones(root):
    make_volume(root, "kidney_3_sparse", 3)
    dense_DHW = make_volume(root, "kidney_3_dense", 4)
    for path in (root / "train" / "kidney_3_dense" / "images").iterdir():
        path.unlink()
    for number in (0, 1):
        (root / "train" / "kidney_3_dense" / "labels" / f"{number:04d}.tif").unlink()
    adapter = Sennet2024()
    samples = {s.id: s for s in adapter.samples(root, "train")}
    assert not any(key.startswith("kidney_3_dense") for key in samples)
    for number in range(2, 5):
        found = adapter.target(samples[f"kidney_3_sparse_{number:04d}"])
        np.testing.assert_array_equal(found.to_mask(), dense_DHW[number])


def test_gaps_and_missing_labels_are_listed_at_once(root):
    (root / "train" / "kidney_2" / "images" / "0002.tif").unlink()
    (root / "train" / "kidney_1_dense" / "labels" / "0004.tif").unlink()
    with pytest.raises(InputError) as caught:
        Sennet2024().samples(root, "train")
    words = "\n".join(map(str, caught.value.faults))
    assert "0002 are missing among the slices" in words
    assert "slices without a label: kidney_1_dense_0004" in words
    assert len(caught.value.faults) == 2


def test_a_slice_is_seen_with_its_neighbours_in_the_levels_of_its_volume(root):
    samples = Sennet2024().samples(root, "train")[:5]
    images = []
    for sample in samples:
        with open_sample(sample) as slide:
            images.append(slide.read_all())
    assert min(image.min() for image in images) == 0
    assert max(image.max() for image in images) == 255
    for number in range(5):
        for channel, other in enumerate((max(0, number - 1), number, min(4, number + 1))):
            np.testing.assert_array_equal(images[number][:, :, channel], images[other][:, :, 1])


def test_a_broken_slice_is_the_mean_of_its_neighbours(root, caplog):
    samples = Sennet2024().samples(root, "train")[:5]
    samples[2].image_path.write_bytes(samples[2].image_path.read_bytes()[:100])
    images = []
    for place in (1, 2, 3):
        with open_sample(samples[place]) as slide:
            images.append(slide.read_all()[:, :, 1].astype(float))
    assert np.abs(images[1] - (images[0] + images[2]) / 2).max() <= 0.5
    assert "taken as the mean of the slices before and after it" in caplog.text


def test_rows_go_row_by_row_and_empty_is_1_0(root):
    mask_HW = np.zeros((3, 4), bool)
    adapter = Sennet2024()
    assert adapter.row(runs_from_mask(mask_HW)) == adapter.fallback_row == "1 0"
    mask_HW[0, 0] = mask_HW[0, 3] = mask_HW[1, 0] = mask_HW[2, 3] = True
    assert adapter.row(runs_from_mask(mask_HW)) == "1 1 4 2 12 1"


def test_the_score_is_the_mean_of_the_volumes_surface_dice(root):
    adapter = Sennet2024()
    samples = adapter.samples(root, "train")
    targets = {s.id: adapter.target(s) for s in samples}
    rng = np.random.default_rng(5)
    noisy = {key: runs.to_mask() ^ (rng.random(runs.shape_hw) < 0.05) for key, runs in targets.items()}
    expected = []
    for volume in ("kidney_1_dense", "kidney_2"):
        keys = [f"{volume}_{number:04d}" for number in range(5)]
        stacks = [np.stack([of[key] for key in keys]) for of in (noisy, {k: t.to_mask() for k, t in targets.items()})]
        expected.append(surface_dice(*stacks))
    shuffled = dict(sorted(targets.items(), key=lambda pair: pair[0][::-1]))
    score = adapter.score({key: runs_from_mask(mask_HW) for key, mask_HW in noisy.items()}, shuffled)
    assert score.mean == pytest.approx(np.mean(expected))
    assert adapter.score(targets, targets).mean == 1


def test_ids_come_from_the_submission_in_its_order(root):
    make_volume(root, "kidney_5", 6)
    (root / "train" / "kidney_5").rename(root / "test")
    (root / "test").rename(root / "kidney_5")
    (root / "test").mkdir()
    (root / "kidney_5").rename(root / "test" / "kidney_5")
    everything = [f"kidney_5_{number:04d}" for number in range(5)]
    assert [s.id for s in Sennet2024().samples(root, "test")] == everything
    wanted = ["kidney_5_0003", "kidney_9_0000", "kidney_5_0000"]
    (root / "sample_submission.csv").write_text("id,rle\n" + "".join(f"{key},1 0\n" for key in wanted))
    samples = Sennet2024().samples(root, "test")
    assert [s.id for s in samples] == wanted
    assert [s.image_path.is_file() for s in samples] == [True, False, True]
    assert isinstance(Sennet2024(), Adapter)


def test_volumes_are_listed_and_opened_by_headers_alone(tmp_path):
    folder = tmp_path / "test" / "kidney_6" / "images"
    folder.mkdir(parents=True)
    for number in range(40):  # the pixels are holes in the files
        path = folder / f"{number:04d}.tif"
        tifffile.imwrite(path, None, shape=(1706, 1510), dtype=np.uint16, photometric="minisblack", metadata=None)
    files = [path.stat() for path in folder.iterdir()]
    assert sum(512 * file.st_blocks for file in files) < 0.02 * sum(file.st_size for file in files)
    Sennet2024().samples(tmp_path, "test")  # what is imported on the way
    tracemalloc.start()
    samples = Sennet2024().samples(tmp_path, "test")
    with open_sample(samples[20]) as slide:
        assert slide.shape_hw == (1706, 1510)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [sample.id for sample in samples] == [f"kidney_6_{number:04d}" for number in range(40)]
    assert peak < 1_000_000, "a slice has five times as many bytes"
    with open_sample(samples[39]) as slide:
        assert slide.read(slice(1000, 1004), slice(0, 1510), channels=5).shape == (4, 1510, 5)
