import json
import logging

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from histofold.competitions.folder import Folder
from histofold.competitions.truth.coco import coco_counts
from histofold.core.faults import InputError
from histofold.core.rle.runs import encode_rle
from histofold.data.check import audit_folder, audit_test_images


@pytest.fixture
def masks():
    """Three masks, H != W, corners set, one empty."""
    rng = np.random.default_rng(0)
    made = {name: rng.random((21, 34)) < 0.3 for name in ("a", "b", "empty")}
    made["a"][0, 0] = made["a"][-1, -1] = True
    made["empty"][:] = False
    return made


@pytest.fixture
def folder(tmp_path, masks):
    (tmp_path / "images").mkdir()
    for name in masks:
        cv2.imwrite(str(tmp_path / "images" / f"{name}.png"), np.full((21, 34, 3), 200, np.uint8))
    return tmp_path


def assert_targets(folder, masks):
    competition = Folder()
    samples = competition.samples(folder, "train")
    assert [s.id for s in samples] == sorted(masks)
    for sample in samples:
        np.testing.assert_array_equal(competition.target(sample).to_mask(), masks[sample.id])


@pytest.mark.parametrize("values", [np.uint8(255), np.uint8(1), np.uint16(700)])
def test_mask_images_of_any_value(folder, masks, values):
    (folder / "masks").mkdir()
    for name, mask in masks.items():
        cv2.imwrite(str(folder / "masks" / f"{name}.png"), mask.astype(values.dtype) * values)
    assert_targets(folder, masks)


def test_rle_table(folder, masks):
    rows = "".join(f"{name},{encode_rle(mask)}\n" for name, mask in masks.items())
    (folder / "rles.csv").write_text("id,rle\n" + rows)
    assert_targets(folder, masks)


@pytest.mark.parametrize("compressed", [False, True])
def test_coco_rle(folder, masks, compressed):
    coco = pytest.importorskip("pycocotools.mask")
    annotations = []
    for number, mask in enumerate(masks.values()):
        packed = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        counts = packed if compressed else coco_counts(packed)
        annotations.append({"image_id": number, "segmentation": {"size": [21, 34], "counts": counts}})
    images = [{"id": i, "file_name": f"{n}.png", "height": 21, "width": 34} for i, n in enumerate(masks)]
    (folder / "annotations.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    assert_targets(folder, masks)


def test_coco_polygons_cover_their_pixels(folder, masks):
    square = [2, 3, 10, 3, 10, 8, 2, 8]
    images = [{"id": i, "file_name": f"{n}.png", "height": 21, "width": 34} for i, n in enumerate(masks)]
    data = {"images": images, "annotations": [{"image_id": 0, "segmentation": [square, [20, 0, 25, 0, 25, 4, 20, 4]]}]}
    (folder / "annotations.json").write_text(json.dumps(data))
    competition = Folder()
    mask = competition.target(competition.samples(folder, "train")[0]).to_mask()
    assert mask[3:8, 2:10].all()
    assert mask[0:4, 20:25].all()
    assert mask.sum() == 5 * 8 + 4 * 5


def test_metadata_of_images(folder, masks):
    (folder / "masks").mkdir()
    for name, mask in masks.items():
        cv2.imwrite(str(folder / "masks" / f"{name}.png"), mask.astype(np.uint8))
    (folder / "images.csv").write_text("id,organ,patient,pixel_size\na,colon,p1,0.5\nb,colon,p1,\nempty,,,\n")
    a, b, empty = Folder().samples(folder, "train")
    assert (a.organ, a.group, a.pixel_size_um) == ("colon", "p1", 0.5)
    assert (b.group, b.pixel_size_um) == ("p1", None)
    assert (empty.organ, empty.group) == ("", "empty")


def test_a_pixel_size_must_be_positive(folder, masks, caplog):
    (folder / "rles.csv").write_text("id,rle\na,1 1\nb,1 1\nempty,\n")
    (folder / "images.csv").write_text("id,pixel_size\na,0\nb,half\nempty,\n")
    _, faults = Folder().inspect(folder, "train")
    assert [fault.id for fault in faults] == ["a", "b"]
    assert "pixel_size '0'" in faults[0].rule
    assert [s.pixel_size_um for s in Folder().samples(folder, "test")] == [None] * 3
    assert "pixel_size 'half'" in caplog.text


def test_test_images_are_looked_at_without_a_list(folder):
    assert audit_test_images(Folder(), folder) == []
    (folder / "test_images").mkdir()
    cv2.imwrite(str(folder / "test_images" / "good.png"), np.zeros((5, 6, 3), np.uint8))
    (folder / "test_images" / "bad.png").write_bytes((folder / "test_images" / "good.png").read_bytes()[:-20])
    assert [fault.id for fault in audit_test_images(Folder(), folder)] == ["bad"]


def test_faults_all_at_once(folder, masks):
    with pytest.raises(InputError, match="no truth"):
        Folder().samples(folder, "train")
    (folder / "masks").mkdir()
    with pytest.raises(InputError) as caught:
        Folder().samples(folder, "train")
    assert {fault.id for fault in caught.value.faults} == set(masks)
    for name in masks:
        cv2.imwrite(str(folder / "masks" / f"{name}.png"), np.zeros((34, 21), np.uint8))
    competition = Folder()
    with pytest.raises(InputError, match="mask is"):
        competition.target(competition.samples(folder, "train")[0])


def test_without_images(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match="no images"):
        Folder().samples(tmp_path, "test")


def test_test_split_follows_its_own_folder_and_list(folder):
    assert [s.id for s in Folder().samples(folder, "test")] == ["a", "b", "empty"]
    (folder / "test_images").mkdir()
    cv2.imwrite(str(folder / "test_images" / "t.png"), np.zeros((5, 6, 3), np.uint8))
    assert [s.id for s in Folder().samples(folder, "test")] == ["t"]
    (folder / "sample_submission.csv").write_text("id,rle\nzz,\nt,\n")
    assert [s.id for s in Folder().samples(folder, "test")] == ["zz", "t"]
    for text, rule in (("id,rle\n", "no ids"), ("name,rle\nt,\n", "missing column")):
        (folder / "sample_submission.csv").write_text(text)
        assert [fault.rule for fault in Folder().inspect(folder, "test")[1]] == [rule]


def test_upper_case_suffixes_are_listed_and_opened(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for place, name in (("images", "a.PNG"), ("masks", "a.TIF"), ("images", ".hidden.png")):
        tifffile.imwrite(tmp_path / place / name, np.full((5, 7), 9, np.uint8))
    (sample,) = Folder().samples(tmp_path, "train")
    assert sample.image_path.name == "a.PNG"
    competition = Folder()
    assert audit_folder(competition, tmp_path)[1] == []
    assert competition.target(sample).area == 35


def test_double_masks_are_refused_and_masks_of_no_image_named(folder, masks):
    (folder / "masks").mkdir()
    for name in ("a.jpg", "b.png", "b_mask.tif", "empty.png", "gone.png"):
        cv2.imwrite(str(folder / "masks" / name), np.zeros((21, 34), np.uint8))
    competition = Folder()
    faults = audit_folder(competition, folder)[1]
    assert [(fault.id, fault.rule) for fault in faults] == [("b", "two masks of this name: b.png, b_mask.tif")]
    assert [notice.rule for notice in competition.notices] == ["1 files are of no image: gone.png"]


def test_without_any_truth_the_images_are_still_looked_at(folder):
    (folder / "images" / "a.png").write_bytes(b"")
    competition = Folder()
    samples, faults = audit_folder(competition, folder)
    assert {fault.id for fault in faults} == {"masks", "a"}
    with pytest.raises(InputError, match="no truth") as caught:
        competition.target(samples[1])
    assert caught.value.faults == []


def test_faults_of_tables_masks_and_images_at_once(folder, masks):
    (folder / "rles.csv").write_text("id,rle\na,1 2\na,1 2\nb,5 1 3 1\n")
    (folder / "images.csv").write_text("id,organ\na,x\na,y\nb,x\nempty,x\n")
    (folder / "images" / "b.png").write_bytes(b"nothing")
    faults = audit_folder(Folder(), folder, decode=True)[1]
    said = [(fault.id, fault.rule.split(" (")[0].split(":")[0]) for fault in faults]
    assert sorted(said) == [
        ("a", "duplicate id"),
        ("a", "duplicate id"),
        ("b", "malformed rle"),
        ("b", "not a TIFF, PNG or JPEG"),
        ("empty", "image without a row"),
    ]


def test_a_mask_of_another_size_names_the_mask_once(folder, masks):
    (folder / "masks").mkdir()
    for name in masks:
        tifffile.imwrite(folder / "masks" / f"{name}.tif", np.zeros((34, 21), np.float32))
    faults = audit_folder(Folder(), folder)[1]
    assert [fault.id for fault in faults] == ["a", "b", "empty"]
    assert all(str(fault).count(str(folder)) == 1 for fault in faults)


def test_coco_sizes_are_held_against_the_images(folder, masks):
    images = [{"id": i, "file_name": f"{n}.png", "height": 10**6, "width": 10**6} for i, n in enumerate(masks)]
    (folder / "annotations.json").write_text(json.dumps({"images": images, "annotations": []}))
    faults = audit_folder(Folder(), folder)[1]
    assert [fault.id for fault in faults] == ["a", "b", "empty"]
    assert all("its entry says" in fault.rule for fault in faults)


def test_faults_of_a_test_split_s_metadata_are_logged(folder, caplog):
    (folder / "images.csv").write_text("id,organ\na,lung\na,kidney\n")
    (folder / "sample_submission.csv").write_text("id,rle\na,\na,\n")
    with caplog.at_level(logging.WARNING, logger="histofold"):
        (sample,) = Folder().samples(folder, "test")
    assert sample.organ == "lung"
    assert caplog.text.count("duplicate id") == 2


def groups(folder):
    """Group and pixel size by id, and the notices; the folder has rles.csv as truth."""
    (folder / "rles.csv").write_text("id,rle\na,1 1\nb,1 1\nempty,\n")
    competition = Folder()
    samples = competition.samples(folder, "train")
    return {s.id: (s.group, s.pixel_size_um) for s in samples}, [notice.rule for notice in competition.notices]


@pytest.mark.parametrize(
    "text",
    [
        "id,patient,pixel_size\na,p,0.5\nb,p,0.25\nempty,q,0.5\n",
        "id,Patient,pixel_size\na,p,0.5\nb,p,0.25\nempty,q,0.5\n",
        "ID;PATIENT;Pixel Size\na.png;p;0,5\nB.PNG;p;0,25\nempty;q;0,5\n",
        "\ufeffid\tpatient\tpixel size\r\nimages/a.png\tp\t0.5\r\n b \tp \t0.25\r\nempty\tq\t0.5\r\n",
    ],
)
def test_patients_are_kept_however_the_table_was_written(folder, text):
    (folder / "images.csv").write_text(text)
    found, notices = groups(folder)
    assert found == {"a": ("p", 0.5), "b": ("p", 0.25), "empty": ("q", 0.5)}
    assert len(notices) == text.count("Patient") + 2 * text.startswith("ID") + 2 * text.startswith("\ufeff")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,patient\na,p\nb,p\n", {"empty": "image without a row"}),
        ("id,patient\na,p\nb,p\nempty,q\nzz,q\n", {"zz": "row without an image"}),
        (
            "id,patient\nx,p\ny,p\n",
            dict.fromkeys(("x", "y"), "row without an image")
            | dict.fromkeys(("a", "b", "empty"), "image without a row"),
        ),
        ("id,patient_id\na,p\nb,p\nempty,q\n", {"patient_id": "looks like 'patient'"}),
        ("id,patient,mpp\na,p,1\nb,p,1\nempty,q,1\n", {"mpp": "looks like 'pixel_size'"}),
        ("image,patient\na,p\nb,p\nempty,q\n", {"id": "missing column"}),
        ("id,patient\na,p\nb,p\nempty,q\n../x,q\n", {"../x": "may lead out of its folder"}),
    ],
)
def test_what_does_not_meet_is_a_fault(folder, text, said):
    (folder / "images.csv").write_text(text)
    (folder / "rles.csv").write_text("id,rle\na,1 1\nb,1 1\nempty,\n")
    _, faults = Folder().inspect(folder, "train")
    found = {fault.id: str(fault) for fault in faults}
    assert found.keys() == said.keys()
    assert all(words in found[key] for key, words in said.items())


def test_images_of_the_test_split_may_have_rows_and_are_found_by_their_names(folder, caplog):
    (folder / "test_images").mkdir()
    cv2.imwrite(str(folder / "test_images" / "007.png"), np.zeros((5, 6, 3), np.uint8))
    (folder / "images.csv").write_text("id,pixel_size\na,1\nb,1\nempty,1\n7,0.5\n")
    assert groups(folder)[0]["a"] == ("a", 1)
    (folder / "sample_submission.csv").write_text("id,rle\n7.0,\n../b,\n")
    with caplog.at_level(logging.WARNING, logger="histofold"):
        first, second = Folder().samples(folder, "test")
    assert (first.id, first.image_path.name, first.pixel_size_um) == ("7.0", "007.png", 0.5), (
        "the id stays as asked for"
    )
    assert second.id == "../b", "it gets a row, the fallback one"
    assert not second.image_path.exists()
    assert "'7.0' is '007'" in caplog.text


def test_rows_of_rles_meet_their_images_or_are_named(folder):
    (folder / "rles.csv").write_text("id,rle\na.png,1 1\nB,2 1\nB,3 4\nempty,\n")
    competition = Folder()
    a, b, _ = competition.samples(folder, "train")
    assert (competition.target(a).area, competition.target(b).area) == (1, 5)
    assert len(competition.notices) == 2
    (folder / "rles.csv").write_text("id,rle\na,1 1\nb,2 1\nempty,\nlost,1 1\n")
    assert [(fault.id, fault.rule) for fault in Folder().inspect(folder, "train")[1]] == [
        ("lost", "row without an image")
    ]


def test_two_kinds_of_truth_are_refused(folder):
    (folder / "masks").mkdir()
    (folder / "rles.csv").write_text("id,rle\na,1 1\nb,1 1\nempty,\n")
    (fault,) = Folder().inspect(folder, "train")[1]
    assert fault.rule == "several kinds of truth: masks/, rles.csv"


def test_links_that_lead_nowhere_and_names_that_no_table_can_hold_are_named(folder):
    (folder / "rles.csv").write_text("id,rle\na,1 1\nb,1 1\nempty,\n")
    (folder / "images" / "moved.png").symlink_to(folder / "gone.png")
    (folder / "images" / "b.png").rename(folder / "images" / "c\\b.png")
    said = {(fault.id, fault.rule) for fault in Folder().inspect(folder, "train")[1]}
    assert ("moved", "a link to a file that is not there") in said
    assert ("c\\b", "a name with a backslash or a control character") in said


def test_spellings_of_a_patient_are_one_and_unknown_ones_are_none(folder):
    (folder / "images.csv").write_text("id,patient\na,P1\nb,p01\nempty,unknown\n")
    found, notices = groups(folder)
    assert [group for group, _ in found.values()] == ["P1", "P1", "empty"]
    assert notices == ["spellings of patient that are read as one: 'P1', 'p01'"]


def test_groups_that_would_split_a_patient_are_refused(folder):
    (folder / "rles.csv").write_text("id,rle\na,1 1\nb,1 1\nempty,\n")
    (folder / "images.csv").write_text("id,patient,group\na,p,g\nb,p,\nempty,q,g\n")
    (fault,) = Folder().inspect(folder, "train")[1]
    assert (fault.id, fault.rule) == ("p", "its images are of several groups: none, g")
    (folder / "images.csv").write_text("id,patient,group\na,p,g\nb,p,g\nempty,q,g\n")
    assert {group for group, _ in groups(folder)[0].values()} == {"g"}


def test_tables_that_nobody_reads_are_named(folder):
    """An images.csv under another name or from a spreadsheet would lose all patients."""
    (folder / "rles.csv").write_text("id,rle\na,1 1\nb,1 1\nempty,\n")
    for name in ("Images.csv", "images.xlsx", "patients.tsv", "clinical.csv", "notes.txt", ".hidden.csv"):
        (folder / name).write_text("id,patient\na,p\n")
    competition = Folder()
    _, faults = competition.inspect(folder, "train")
    assert [fault.id for fault in faults] == ["Images", "images", "patients"]
    assert [notice.id for notice in competition.notices] == ["clinical"]
    (folder / "images.csv").write_text("id,patient\na,p\nb,p\nempty,q\n")
    assert competition.inspect(folder, "train")[1] == []


def test_images_that_viewers_turn_are_noticed(tmp_path):
    """Masks drawn on the turned image have its size after a half turn, and lie upside down."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    exif = Image.Exif()
    exif[0x0112] = 3
    for key in "ab":
        Image.new("RGB", (9, 6)).save(tmp_path / "images" / f"{key}.jpg", **({"exif": exif} if key == "b" else {}))
        Image.new("L", (9, 6), 255).save(tmp_path / "masks" / f"{key}.png")
    competition = Folder()
    competition.samples(tmp_path, "train")
    (notice,) = competition.notices
    assert notice.rule == "viewers turn these images by an orientation that they state: b"
