"""What values of masks mean: each kind of export with the mask that it stands for, or the words of its refusal."""

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from histofold.competitions.folder import Folder
from histofold.core.faults import InputError
from histofold.data.check import audit_folder

SHAPE = (90, 130)


@pytest.fixture
def masks():
    """Two masks of discs, the second over a corner; H != W."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    first = ((y - 30) ** 2 + (x - 40) ** 2 < 20**2) | ((y - 65) ** 2 + (x - 95) ** 2 < 14**2)
    return {"a": first, "b": y**2 + x**2 < 50**2}


@pytest.fixture
def root(tmp_path):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for name in "ab":
        cv2.imwrite(str(tmp_path / "images" / f"{name}.png"), np.full((*SHAPE, 3), 150, np.uint8))
    return tmp_path


def targets(root):
    """Masks by id, what does not count by id, and the words of the notices."""
    folder = Folder()
    samples = folder.samples(root, "train")
    made = {sample.id: folder.target(sample).to_mask() for sample in samples}
    ignored = {sample.id: folder.ignored(sample) for sample in samples}
    return made, ignored, [notice.rule for notice in folder.notices]


def refusal(root):
    (fault,) = audit_folder(Folder(), root)[1]
    assert (fault.id, fault.file) == ("masks", str(root / "masks"))
    assert "folder.toml" in fault.remedy
    return fault.rule


def save(root, masks, picture, suffix=".png", **options):
    for name, mask_HW in masks.items():
        made = picture(mask_HW)
        path = root / "masks" / f"{name}{suffix}"
        if suffix == ".tif":
            tifffile.imwrite(path, made, photometric="minisblack")
        else:
            (made if isinstance(made, Image.Image) else Image.fromarray(made)).save(path, **options)


def alpha_of(mask_HW, colour, outside=None):
    """RGBA, `colour` all over or inside alone, alpha the mask."""
    picture_HWC = np.empty((*mask_HW.shape, 4), np.uint8)
    picture_HWC[:, :, :3] = colour
    if outside is not None:
        picture_HWC[~mask_HW, :3] = outside
    picture_HWC[:, :, 3] = mask_HW * np.uint8(255)
    return picture_HWC


def palette_of(mask_HW, colours, mask_index):
    image = Image.fromarray(np.where(mask_HW, mask_index, 1 - mask_index).astype(np.uint8), "P")
    image.putpalette(colours)
    return image


HARD = {
    "0 and 1": lambda m: m.astype(np.uint8),
    "near black and white": lambda m: np.where(m, 254, 1).astype(np.uint8),
    "white and nearly": lambda m: np.where(m, 250, 0).astype(np.uint8) + np.tri(*SHAPE, dtype=np.uint8) * m,
    "alpha of a white picture": lambda m: alpha_of(m, 255),
    "alpha of a black picture": lambda m: alpha_of(m, 0),
    "red on transparent white": lambda m: alpha_of(m, (200, 0, 0), outside=255),
    "palette whose black is 1": lambda m: palette_of(m, [255, 0, 0, 0, 0, 0], 0),
    "colours": lambda m: m[:, :, None] * np.array([0, 128, 255], np.uint8),
    "two colours": lambda m: (
        m[:, :, None] * np.where(np.tri(*SHAPE)[:, :, None] > 0, [255, 0, 0], [0, 99, 0]).astype("u1")
    ),
}


@pytest.mark.parametrize("kind", HARD)
def test_hard_masks_are_read_to_the_pixel(root, masks, kind):
    save(root, masks, HARD[kind])
    made, _, _ = targets(root)
    for name, mask_HW in masks.items():
        np.testing.assert_array_equal(made[name], mask_HW)


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "f4"])
def test_minus_one_is_background_where_one_is_all_else(root, masks, dtype):
    save(root, masks, lambda m: np.where(m, 1, -1).astype(dtype), ".tif")
    made, _, words = targets(root)
    np.testing.assert_array_equal(made["b"], masks["b"])
    assert words == ["-1 is background"]


def test_soft_edges_are_cut_at_half(root, masks):
    soft = {name: cv2.GaussianBlur(m.astype(np.float32), (0, 0), 2) for name, m in masks.items()}
    save(root, soft, lambda m: np.rint(m * 255).astype(np.uint8))
    made, _, words = targets(root)
    for name, soft_HW in soft.items():
        np.testing.assert_array_equal(made[name], np.rint(soft_HW * 255) >= 127.5)
        assert np.mean(made[name] != masks[name]) < 0.01
    assert words == ["soft edges are cut at half of white"]


def test_fractions_are_cut_at_half(root, masks):
    save(root, masks, lambda m: cv2.GaussianBlur(m.astype(np.float32), (0, 0), 2) * np.float32(0.9), ".tif")
    assert np.mean(targets(root)[0]["a"] != masks["a"]) < 0.02


@pytest.mark.parametrize("quality", [50, 90])
@pytest.mark.parametrize("saved_as", ["JPEG", "PNG"])
def test_jpeg_masks_are_cut_at_half_whatever_they_were_saved_as_later(root, masks, quality, saved_as):
    for name, mask_HW in masks.items():
        _, data = cv2.imencode(".jpg", mask_HW * np.uint8(255), [cv2.IMWRITE_JPEG_QUALITY, quality])
        if saved_as == "JPEG":
            (root / "masks" / f"{name}.jpg").write_bytes(data.tobytes())
        else:
            cv2.imwrite(str(root / "masks" / f"{name}.png"), cv2.imdecode(data, cv2.IMREAD_GRAYSCALE))
    made, _, _ = targets(root)
    for name, mask_HW in masks.items():
        assert np.mean(made[name] != mask_HW) < 0.002


def test_numbers_of_many_objects_are_mask_up_to_white(root):
    labels_HW = np.kron(np.arange(1, 256, dtype=np.uint8).reshape(15, 17), np.ones((6, 7), np.uint8))
    labels_HW = np.pad(labels_HW, ((0, 0), (0, SHAPE[1] - labels_HW.shape[1])))
    save(root, {"a": labels_HW, "b": labels_HW[::-1]}, np.array)
    np.testing.assert_array_equal(targets(root)[0]["a"], labels_HW > 0)


REFUSED = {
    "1 and 2": (lambda m: np.where(m, 2, 1).astype(np.uint8), "none holds 0 or black, and they hold 1, 2"),
    "-1, 0 and 1": (lambda m: np.where(m, 1, -np.tri(*SHAPE)).astype(np.int8), "they hold -1, 0, 1: is the negative"),
    "void of 255": (lambda m: np.where(np.tri(*SHAPE), m, 255).astype(np.uint8), "they hold 0, 1, 255: which"),
    "void of 16 bits": (lambda m: np.where(np.tri(*SHAPE), m, 255).astype(np.uint16), "they hold 0, 1, 255: which"),
    "grey and white": (lambda m: np.where(np.tri(*SHAPE), m * 128, 255).astype(np.uint8), "they hold 0, 128, 255"),
    "no black": (lambda m: np.where(m[:, :, None], [255, 0, 0], [0, 0, 255]).astype(np.uint8), "none holds 0 or black"),
    "no black in a palette": (lambda m: palette_of(m, [255, 0, 0, 255, 255, 255], 0), "none holds 0 or black"),
}


def noise(mask_HW):
    return cv2.resize(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8), SHAPE[::-1])


REFUSED |= {
    "pictures": (noise, "most pixels are neither black nor white"),
    "grey pictures": (lambda m: noise(m)[:, :, 0], "most pixels are neither black nor white"),
    "void of a palette": (
        lambda m: Image.fromarray(np.where(np.tri(*SHAPE), m, 255).astype(np.uint8)).convert("P"),
        "the index 255 stands beside a few others",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_may_mean_two_things_is_refused_once(root, masks, kind):
    picture, words = REFUSED[kind]
    save(root, masks, picture, ".tif" if kind.startswith("-1") else ".png")
    assert words in refusal(root)


def test_labels_in_a_jpeg_are_refused(root, masks):
    save(root, masks, lambda m: m * np.uint8(90), ".jpg", quality=90)
    assert "labels cannot be distinguished from noise" in refusal(root)


def test_one_mask_alone_decides_nothing_that_the_others_contradict(root, masks):
    save(root, {"a": masks["a"]}, lambda m: np.where(m, 2, 1).astype(np.uint8))
    save(root, {"b": masks["b"]}, lambda m: np.where(m, 2, 0).astype(np.uint8))
    made, _, _ = targets(root)
    assert made["a"].all(), "two labels that leave nothing out, since 0 is background elsewhere"
    np.testing.assert_array_equal(made["b"], masks["b"])


def test_settings_say_what_values_mean(root, masks):
    save(root, masks, lambda m: np.where(m, 2, 1).astype(np.uint8))
    (root / "folder.toml").write_text("mask_values = [2]\n")
    np.testing.assert_array_equal(targets(root)[0]["b"], masks["b"])
    (root / "folder.toml").write_text("mask_values = [1]\n")
    np.testing.assert_array_equal(targets(root)[0]["b"], ~masks["b"])


@pytest.mark.parametrize("settings", ["ignore_value = 255", "mask_values = [1]\nignore_value = 255"])
def test_the_ignored_value_is_neither_mask_nor_background(root, masks, settings):
    void_HW = np.tri(*SHAPE, k=20) == 0
    save(root, masks, lambda m: np.where(void_HW, 255, m).astype(np.uint8))
    (root / "folder.toml").write_text(f"{settings}\n")
    made, ignored, _ = targets(root)
    for name, mask_HW in masks.items():
        np.testing.assert_array_equal(made[name], mask_HW & ~void_HW)
        np.testing.assert_array_equal(ignored[name].to_mask(), void_HW)


def test_what_is_ignored_is_no_background(root, masks):
    save(root, masks, lambda m: np.where(np.tri(*SHAPE), np.where(m, 2, 1), 255).astype(np.uint8))
    (root / "folder.toml").write_text("ignore_value = 255\n")
    assert "none holds 0 or black, and they hold 1, 2" in refusal(root)


def test_labels_of_classes_have_values_and_a_void_of_their_own(root, masks):
    void_HW, half_HW = np.tri(*SHAPE, k=20) == 0, np.arange(SHAPE[1]) < 50
    save(root, masks, lambda m: np.where(void_HW, 255, m * np.where(half_HW, 10, 20)).astype(np.uint8))
    (root / "classes.txt").write_text("gland\nlumen\n")
    with pytest.raises(InputError, match="there are 2 classes") as caught:
        targets(root)
    assert "ignore_value" in caught.value.faults[0].remedy
    (root / "folder.toml").write_text("mask_values = [10, 20]\nignore_value = 255\n")
    folder = Folder()
    first, _ = folder.samples(root, "train")
    gland, lumen = (runs.to_mask() for runs in folder.target(first))
    np.testing.assert_array_equal(gland, masks["a"] & half_HW & ~void_HW)
    np.testing.assert_array_equal(lumen, masks["a"] & ~half_HW & ~void_HW)
    np.testing.assert_array_equal(folder.ignored(first).to_mask(), void_HW)


def test_settings_are_read_strictly(root, masks):
    save(root, masks, lambda m: m.astype(np.uint8))
    for text, words in (("mask_value = [1]", "mask_value"), ("mask_values = [1]\nignore_value = 1", "it is either")):
        (root / "folder.toml").write_text(f"{text}\n")
        with pytest.raises(InputError, match=words):
            targets(root)
    (root / "folder.toml").write_text("ignore_value = 3\n")
    save(root, masks, lambda m: m * np.uint8(255), ".jpg")
    for name in masks:
        (root / "masks" / f"{name}.png").unlink()
    with pytest.raises(InputError, match="a JPEG does not keep values"):
        targets(root)


def test_a_mask_of_nothing_but_one_value_is_all_labelled(root, masks):
    save(root, masks, lambda m: np.ones(SHAPE, np.uint8))
    assert targets(root)[0]["a"].all()


def test_one_value_a_mask_is_mask_whichever_it_is(root, masks):
    save(root, {"a": masks["a"]}, lambda m: m * np.uint8(255))
    save(root, {"b": masks["b"]}, lambda m: m.astype(np.uint8))
    made, _, words = targets(root)
    for name, mask_HW in masks.items():
        np.testing.assert_array_equal(made[name], mask_HW)
    assert words == ["each mask holds one value beside 0, of 1, 255: all are mask"]


@pytest.mark.parametrize("shift", [0, 8])
def test_a_palette_of_a_tiff_counts_by_its_colours_of_eight_or_sixteen_bits(root, masks, shift):
    colours = np.zeros((3, 256), np.uint16)
    colours[:, 0] = np.array([0, 200, 0]) << shift
    for name, mask_HW in masks.items():
        index_HW = np.where(mask_HW, 0, 1).astype(np.uint8)
        tifffile.imwrite(root / "masks" / f"{name}.tif", index_HW, photometric="palette", colormap=colours)
    np.testing.assert_array_equal(targets(root)[0]["b"], masks["b"])


def test_half_transparent_overlays_count_by_their_own_most(root, masks):
    save(root, masks, lambda m: np.dstack([alpha_of(m, (0, 200, 0), outside=255)[:, :, :3], m * np.uint8(90)]))
    np.testing.assert_array_equal(targets(root)[0]["a"], masks["a"])


CLASS_WORDS = "all colours and values are mask; where they are classes, write classes.txt, or masks/CLASS/"


@pytest.mark.parametrize(("right", "words"), [(1, []), (2, [CLASS_WORDS])])
@pytest.mark.parametrize("is_colour", [False, True])
def test_few_values_or_colours_of_most_masks_may_be_classes(root, masks, right, words, is_colour):
    """They are all mask as long as nothing names classes, which is said."""

    def picture(mask_HW):
        labels_HW = mask_HW.astype(np.uint8)
        labels_HW[:, mask_HW.shape[1] // 2 :] *= right
        return np.array([[0, 0, 0], [0, 0, 200], [0, 200, 0]], np.uint8)[labels_HW] if is_colour else labels_HW

    save(root, masks, picture)
    made, _, said = targets(root)
    for name, mask_HW in masks.items():
        np.testing.assert_array_equal(made[name], mask_HW)
    assert said == words
