"""Near-duplicates: found under whatever a second scan does, and nowhere else."""

from itertools import combinations

import cv2
import numpy as np
import pytest
import tifffile

from histofold.data.duplicates import (
    FINGERPRINT_SIDE,
    cluster_pairs,
    duplicate_groups,
    find_duplicates,
    fingerprint,
    perceptual_hash,
    square_symmetries,
)
from histofold.schema.sample import Sample


def tissue(seed, shape_hw=(240, 310)):
    """A round core of random texture on glass: all look alike from far off."""
    rng = np.random.default_rng(seed)
    height, width = shape_hw
    layers = [cv2.GaussianBlur(rng.normal(size=(height, width)), (0, 0), sigma) * sigma for sigma in (1.5, 4.0, 10.0)]
    texture = np.clip(140 + 55 * sum(layers), 0, 220)
    y, x = np.ogrid[:height, :width]
    core = ((y / height - 0.5) ** 2 + (x / width - 0.5) ** 2) < 0.21
    grey = np.where(core, texture, 240).astype(np.uint8)
    return np.stack([grey, grey // 2 + 60, grey], axis=2)


def scanned_again(image_HWC, seed, turn):
    """Moved, blurred, darker, recompressed and turned."""
    rng = np.random.default_rng(seed)
    height, width = image_HWC.shape[:2]
    top, left = rng.integers(0, height // 20), rng.integers(0, width // 20)
    moved = cv2.GaussianBlur(image_HWC[top:, left:], (0, 0), rng.uniform(0.4, 1.2))
    darker = np.clip(moved * rng.uniform(0.85, 1.05) + rng.uniform(-10, 10), 0, 255).astype(np.uint8)
    encoded = cv2.imencode(".jpg", darker, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(50, 90))])[1]
    return np.ascontiguousarray(square_symmetries(cv2.imdecode(encoded, cv2.IMREAD_COLOR))[turn])


@pytest.mark.parametrize("turn", range(8))
def test_a_second_scan_is_found_however_it_lies(turn):
    originals = {f"a{seed}": tissue(seed) for seed in range(6)}
    copies = {f"b{seed}": scanned_again(originals[f"a{seed}"], 100 * turn + seed, turn) for seed in (0, 3)}
    prints = {key: fingerprint(image_HWC) for key, image_HWC in (originals | copies).items()}
    assert [(pair.first, pair.second) for pair in find_duplicates(prints)] == [("a0", "b0"), ("a3", "b3")]


def test_cores_that_only_look_alike_from_far_are_none():
    prints = {str(seed): fingerprint(tissue(seed)) for seed in range(20)}
    near = [
        (a, b) for a, b in combinations(prints.values(), 2) if (perceptual_hash(a) != perceptual_hash(b)).sum() < 24
    ]
    assert near, "the hash alone would name some of them: else the second check is not tried"
    assert find_duplicates(prints) == []


def framed(image_HWC, grey):
    """The image in an even frame, a third of it on each side."""
    margin = max(image_HWC.shape[:2]) // 3
    return cv2.copyMakeBorder(image_HWC, *[margin] * 4, cv2.BORDER_CONSTANT, value=[grey] * 3)


def core_on(image_HWC, grey):
    """A small round core of the image on an even background."""
    height, width = image_HWC.shape[:2]
    y, x = np.ogrid[:height, :width]
    core = (y - height / 2) ** 2 + (x - width / 2) ** 2 < (0.25 * height) ** 2
    return np.where(core[:, :, np.newaxis], image_HWC, np.uint8(grey))


@pytest.mark.parametrize("put", [framed, core_on])
@pytest.mark.parametrize("grey", [0, 128, 255])
def test_a_common_frame_or_outline_is_no_evidence_and_hides_no_second_scan(put, grey):
    images = {f"a{seed}": put(tissue(seed, (240, 240)), grey) for seed in range(5)}
    images["b3"] = scanned_again(images["a3"], 5, 6)
    pairs = find_duplicates({key: fingerprint(image_HWC) for key, image_HWC in images.items()})
    assert [(pair.first, pair.second) for pair in pairs] == [("a3", "b3")]


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_flat_images_are_no_duplicates(grey):
    flat = np.full((33, 57, 3), grey, np.uint8)
    assert find_duplicates({"a": fingerprint(flat), "b": fingerprint(flat)}) == []


def test_little_is_no_trouble():
    assert find_duplicates({}) == []
    assert find_duplicates({"a": fingerprint(np.zeros((1, 1, 3), np.uint8))}) == []
    assert fingerprint(np.zeros((1, 7, 3), np.uint8)).shape == (FINGERPRINT_SIDE, FINGERPRINT_SIDE)


def test_the_symmetries_are_eight_and_the_first_is_the_square_itself():
    square = np.arange(16).reshape(4, 4)
    found = square_symmetries(square)
    np.testing.assert_array_equal(found[0], square)
    assert len({view.tobytes() for view in map(np.ascontiguousarray, found)}) == 8


def test_clusters_are_the_connected_parts_whatever_the_order():
    pairs = [("a", "b"), ("c", "d"), ("b", "c"), ("x", "y")]
    for order in (pairs, pairs[::-1]):
        clusters = cluster_pairs(order)
        assert set(clusters) == set("abcdxy")
        assert len({clusters[key] for key in "abcd"}) == 1
        assert clusters["x"] == clusters["y"] != clusters["a"]
    assert cluster_pairs([]) == {}


def test_groups_come_from_the_files_and_what_is_broken_is_left_out(tmp_path):
    samples = []
    for key, image_HWC in (("1", tissue(1)), ("2", tissue(2)), ("1b", scanned_again(tissue(1), 7, 5))):
        tifffile.imwrite(tmp_path / f"{key}.tif", image_HWC)
        samples.append(Sample(id=key, image_path=tmp_path / f"{key}.tif"))
    (tmp_path / "broken.tif").write_bytes(b"II*\0")
    samples += [Sample(id=name, image_path=tmp_path / f"{name}.tif") for name in ("broken", "missing")]
    assert duplicate_groups(samples) == {"1": "1", "1b": "1"}


def test_a_cluster_is_named_after_its_first_id():
    assert cluster_pairs([("a", "c"), ("b", "c"), ("x", "y")]) == {**dict.fromkeys("abc", "a"), "x": "x", "y": "x"}
