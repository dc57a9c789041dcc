"""Folders as people have them: each is recognised, and its masks are those of the plain layout."""

import base64
import json
import os
import shutil

import cv2
import numpy as np
import pytest

from histofold.competitions.folder import Folder
from histofold.competitions.registry import detect_competition
from histofold.core.faults import InputError
from histofold.data.check import audit_folder, audit_test_images

SHAPE = (20, 33)
SQUARES = {"x": [[(3, 2), (12, 9)]], "y": [[(0, 0), (5, 20)], [(20, 4), (31, 15)]]}


def mask_of(key):
    mask_HW = np.zeros(SHAPE, np.uint8)
    for (left, top), (right, bottom) in SQUARES[key]:
        mask_HW[top:bottom, left:right] = 255
    return mask_HW


def put(path, picture_HW=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*SHAPE, 3), 150, np.uint8) if picture_HW is None else picture_HW)


def assert_masks(root, ids=("x", "y")):
    competition = detect_competition(root)
    samples, faults = audit_folder(competition, root)
    assert isinstance(competition, Folder)
    assert faults == []
    assert sorted(sample.id for sample in samples) == sorted(ids)
    for sample in samples:
        np.testing.assert_array_equal(competition.target(sample).to_mask(), mask_of(sample.id[-1]) > 0)
    return competition


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/{}.png", "masks/{}_mask.png"),
        ("images/{}.png", "Masks/{}-labels.tif"),
        ("Images/{}.png", "labels/mask_{}.bmp"),
        ("images/{}.png", "Annotations/{}.ANNO.png"),
        ("images/{}.jpg", "ground_truth/{}_segmentation.png"),
        ("images/image_{}.png", "masks/mask_{}.png"),
        ("images/image7{}.png", "masks/mask7{}.png"),
        ("images/{}.png", "images/{}_anno.bmp"),
        ("{}.png", "{}_anno.png"),
        ("images/{}.ome.png", "images/{}-mask.ome.png"),
        ("{}.png", "masks/{}.png"),
        ("images/{}.ome.png", "masks/{}_mask.ome.tif"),
        ("images/p/{}.png", "masks/p/{}.png"),
        ("images/p/{}.png", "masks/{}_gt.png"),
    ],
)
def test_masks_are_found_by_folder_and_name(tmp_path, image, mask):
    for key in "xy":
        put(tmp_path / image.format(key))
        put(tmp_path / mask.format(key), mask_of(key))
    name = image.rpartition("/")[2].partition(".")[0]
    assert_masks(tmp_path, [name.format(key) for key in "xy"])


def test_one_name_in_two_folders_is_two_images(tmp_path):
    for folder, key in (("x", "1"), ("y", "1"), ("y", "2")):
        put(tmp_path / "images" / folder / f"{key}.png")
        put(tmp_path / "masks" / folder / f"{key}.png", mask_of(folder))
    competition = detect_competition(tmp_path)
    samples = competition.samples(tmp_path, "train")
    assert [sample.id for sample in samples] == ["x/1", "y/1", "2"]
    for sample in samples:
        folder = sample.image_path.parent.name
        np.testing.assert_array_equal(competition.target(sample).to_mask(), mask_of(folder) > 0)


def test_masks_that_are_spelled_otherwise_are_met_with_a_notice(tmp_path):
    for image, mask in (("x", "X_mask"), ("07", "7"), ("n\u00e9", "ne\u0301")):
        put(tmp_path / "images" / f"{image}.png")
        put(tmp_path / "masks" / f"{mask}.png", mask_of("x"))
    competition = Folder()
    samples, faults = competition.inspect(tmp_path, "train")
    assert faults == []
    assert all(competition.target(sample).area == 63 for sample in samples)
    (notice,) = competition.notices
    assert "3 ids are spelled otherwise" in notice.rule


def test_background_is_no_class(tmp_path):
    put(tmp_path / "images" / "x.png")
    put(tmp_path / "masks" / "x.png", mask_of("x") // 255)
    (tmp_path / "classes.txt").write_text("_background_\ngland\n")
    (fault,) = Folder().inspect(tmp_path, "train")[1]
    assert "is no class: it is what has the value 0" in fault.rule


def test_a_file_that_is_no_mask_and_a_link_that_leads_nowhere_are_named(tmp_path):
    for key in "xy":
        put(tmp_path / "images" / f"{key}.png")
    put(tmp_path / "masks" / "x.png", mask_of("x"))
    (tmp_path / "masks" / "y_mask.npy").write_bytes(b"")
    (tmp_path / "masks" / "z.png").symlink_to(tmp_path / "gone.png")
    _, faults = Folder().inspect(tmp_path, "train")
    assert [(fault.id, fault.rule) for fault in faults] == [
        ("y", "image y.png has no mask that is read: y_mask.npy is there"),
        ("z", "a link to a file that is not there"),
    ]


def test_two_masks_that_are_spelled_otherwise_than_their_image_are_a_fault(tmp_path):
    put(tmp_path / "images" / "A1.png")
    for name in ("a1_mask", "a1_label"):
        put(tmp_path / "masks" / f"{name}.png", mask_of("x"))
    (fault,) = Folder().inspect(tmp_path, "train")[1]
    assert (fault.id, fault.rule) == ("A1", "two masks of this name: a1_label.png, a1_mask.png")


@pytest.mark.parametrize("base", [".", "stage1_train", "train"])
def test_a_folder_an_image_with_a_mask_an_object_is_read_as_their_union(tmp_path, base):
    for key, squares in SQUARES.items():
        put(tmp_path / base / key / "images" / f"{key}.png")
        for number, (corner, far) in enumerate(squares):
            object_HW = np.zeros(SHAPE, np.uint8)
            object_HW[corner[1] : far[1], corner[0] : far[0]] = 255
            put(tmp_path / base / key / "masks" / f"{number}.png", object_HW)
    put(tmp_path / "stage1_test" / "t" / "images" / "t.png")
    competition = assert_masks(tmp_path)
    assert [sample.id for sample in competition.samples(tmp_path, "test")] == ["t"]
    assert audit_test_images(competition, tmp_path) == []
    shutil.rmtree(tmp_path / base / "x" / "masks")
    _, faults = audit_folder(detect_competition(tmp_path), tmp_path)
    assert [(fault.id, fault.rule) for fault in faults] == [("x", "image without masks of objects")]


def test_several_kinds_of_truth_are_refused_and_none_is_named(tmp_path):
    put(tmp_path / "images" / "x.png")
    _, faults = audit_folder(Folder(), tmp_path)
    assert [fault.rule for fault in faults] == ["no truth of the images"]
    put(tmp_path / "labels" / "x.png", mask_of("x"))
    put(tmp_path / "images" / "x_mask.png", mask_of("x"))
    _, faults = audit_folder(Folder(), tmp_path)
    assert [fault.rule for fault in faults] == ["several kinds of truth: labels/, masks beside the images"]


def test_images_alone_can_be_predicted_and_lack_their_truth(tmp_path):
    put(tmp_path / "x.png")
    competition = detect_competition(tmp_path)
    assert [sample.id for sample in competition.samples(tmp_path, "test")] == ["x"]
    (fault,) = competition.inspect(tmp_path, "train")[1]
    assert fault.rule == "no truth of the images"


def test_a_split_of_many_images_is_no_image_and_the_folder_to_give_is_named(tmp_path):
    for split in ("train", "val"):
        for key in "xy":
            put(tmp_path / split / "images" / f"{key}.png")
            put(tmp_path / split / "masks" / f"{key}.png", mask_of(key))
    with pytest.raises(InputError, match=r"give one of the folders in it that hold images: train, val"):
        detect_competition(tmp_path)
    assert_masks(tmp_path / "val")


def test_what_a_scanner_writes_beside_images_is_no_truth(tmp_path):
    for key in "xy":
        put(tmp_path / "images" / f"{key}.png")
        put(tmp_path / "masks" / f"{key}.png", mask_of(key))
        (tmp_path / "images" / f"{key}.json").write_text(json.dumps({"scanner": "S1"}))
        (tmp_path / "images" / f"{key}.xml").write_text("<Scan/>")
    assert_masks(tmp_path)


def plain_folder(root, mask_folder="masks"):
    for key in "xy":
        put(root / "images" / f"{key}.png")
        put(root / mask_folder / f"{key}.png", mask_of(key))


def test_what_systems_leave_in_folders_is_no_image_and_no_mask(tmp_path):
    """A network drive keeps a thumbnail of every picture, which would be an image with a mask."""
    plain_folder(tmp_path)
    for name in ("images", "masks"):
        put(tmp_path / name / "@eaDir" / "x.png" / "SYNOPHOTO_THUMB_M.png")
        put(tmp_path / name / "__MACOSX" / "y.png")
        put(tmp_path / name / ".ipynb_checkpoints" / "x-checkpoint.png")
        (tmp_path / name / "._x.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / "~$images.csv").write_bytes(b"\0")
    assert assert_masks(tmp_path).notices == []


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("Folder.toml", "folder.toml"),
        ("Classes.txt", "classes.txt"),
        ("classes.txt.txt", "classes.txt"),
        ("images.csv.txt", "images.csv"),
        ("IMAGES.CSV", "images.csv"),
    ],
)
def test_a_file_that_is_not_read_for_a_letter_of_its_name_is_a_fault(tmp_path, name, right):
    plain_folder(tmp_path)
    (tmp_path / name).write_text("")
    (fault,) = Folder().inspect(tmp_path, "train")[1]
    assert (fault.file, fault.remedy) == (str(tmp_path / name), f"name it {right}")


@pytest.mark.parametrize("name", ["images/images.csv", "masks/classes.txt", "masks/folder.toml", "images/rles.csv"])
def test_a_file_that_is_not_read_where_it_lies_is_a_fault(tmp_path, name):
    plain_folder(tmp_path)
    (tmp_path / name).write_text("")
    (fault,) = Folder().inspect(tmp_path, "train")[1]
    assert (fault.file, fault.rule) == (str(tmp_path / name), "it is not read here")


@pytest.mark.parametrize("name", ["images (1).csv", "patients - copy.xlsx", "Metadata.tsv"])
def test_a_second_copy_of_a_table_is_a_fault(tmp_path, name):
    plain_folder(tmp_path)
    (tmp_path / name).write_text("id,patient\nx,1\ny,1\n")
    (fault,) = Folder().inspect(tmp_path, "train")[1]
    assert (fault.file, fault.rule) == (str(tmp_path / name), "a table that is not read")


@pytest.mark.parametrize("below", ["images", "masks"])
def test_of_a_folder_one_too_low_the_one_above_is_named(tmp_path, monkeypatch, below):
    plain_folder(tmp_path)
    (fault,) = Folder().inspect(tmp_path / below, "train")[1]
    assert fault.remedy == f"give the folder above, {tmp_path.name}, which holds images and truth"
    monkeypatch.setattr("os.access", lambda path, mode: False)  # a folder above that may not be listed
    (fault,) = Folder().inspect(tmp_path / below, "train")[1]
    assert fault.remedy.startswith("add masks/")


def test_of_a_folder_too_high_those_below_are_named(tmp_path):
    plain_folder(tmp_path / "deep" / "own")
    plain_folder(tmp_path / "deep" / "__MACOSX")
    with pytest.raises(InputError, match=r"give one of the folders in it that hold images: deep/own$"):
        detect_competition(tmp_path)
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "images.zip").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"unpack images\.zip"):
        detect_competition(tmp_path / "packed")
    put(tmp_path / "named" / "imagesTr" / "x.png")
    with pytest.raises(InputError, match=r"images lie in imagesTr: name their folder images"):
        detect_competition(tmp_path / "named")


def test_a_file_of_outlines_of_another_program_is_named(tmp_path):
    put(tmp_path / "images" / "x.png")
    (tmp_path / "via_region_data.json").write_text(json.dumps({"x.png12": {"filename": "x.png", "regions": []}}))
    (fault,) = Folder().inspect(tmp_path, "train")[1]
    assert fault.rule == "no truth of the images that is read; there are via_region_data.json"


def test_a_name_that_is_no_text_is_a_fault(tmp_path):
    """No table can hold it: what is written under it would end in a traceback."""
    plain_folder(tmp_path)
    for name in ("images", "masks"):
        (tmp_path / name / "x.png").rename(os.fsdecode(os.fsencode(tmp_path / name) + b"/\xff\xa0.png"))
    (fault,) = Folder().inspect(tmp_path, "train")[1]
    assert fault.rule == "a name that is not in UTF-8"


def test_truth_of_a_kind_that_is_not_read_is_named(tmp_path):
    put(tmp_path / "images" / "x.png")
    (tmp_path / "labels" / "deep").mkdir(parents=True)
    (tmp_path / "labels" / "x.txt").write_text("0 0.5 0.5 0.1 0.1")
    (tmp_path / "labels" / "deep" / "x.geojson.gz").write_bytes(b"")
    (fault,) = Folder().inspect(tmp_path, "train")[1]
    assert fault.rule == "no truth of the images that is read; there are labels/*.gz, labels/*.txt"


def test_images_of_a_kind_that_is_not_read_are_named(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "x.webp").write_bytes(b"RIFF")
    faults = Folder().inspect(tmp_path, "train")[1]
    assert faults[0].rule == "no images that are read; there are *.webp"


def test_classes_in_two_spellings_are_refused_in_every_kind_of_truth(tmp_path):
    """They would be two classes, each half empty."""
    names = ("tumour bed", "Tumour_bed")
    for name in names:
        plain_folder(tmp_path / "masks", f"masks/{name}")
    plain_folder(tmp_path / "listed")
    (tmp_path / "listed" / "classes.txt").write_text("\n".join(names))
    plain_folder(tmp_path / "table", "aside")
    rows = [f"{key},{name},1 1" for key, name in zip("xy", names, strict=True)]
    (tmp_path / "table" / "rles.csv").write_text("\n".join(["id,class,rle", *rows]))
    plain_folder(tmp_path / "coco", "aside")
    images = [{"id": n, "file_name": f"{key}.png", "height": 20, "width": 33} for n, key in enumerate("xy")]
    notes = [{"image_id": n, "category_id": n, "segmentation": [[1, 1, 5, 1, 5, 4]]} for n in range(2)]
    content = {"images": images, "annotations": notes, "categories": [{"id": n, "name": names[n]} for n in range(2)]}
    (tmp_path / "coco" / "annotations.json").write_text(json.dumps(content))
    for kind in ("masks", "listed", "table", "coco"):
        (fault,) = Folder().inspect(tmp_path / kind, "train")[1]
        assert fault.rule.startswith("one class in several spellings: "), kind
        assert all(name in fault.rule for name in names)


def test_numbers_before_the_names_of_classes_are_refused(tmp_path):
    """`0 background` in the first line would be the class of value 1, and all others one value further."""
    plain_folder(tmp_path)
    (tmp_path / "classes.txt").write_text("0: background\n1: gland\n2: lumen\n")
    (fault,) = Folder().inspect(tmp_path, "train")[1]
    assert "its lines begin with numbers" in fault.rule
    (tmp_path / "classes.txt").write_text("3rd layer\n5th layer\n")
    assert Folder().inspect(tmp_path, "train")[1] == []


def ring(corner, far):
    return [[corner[0], corner[1]], [far[0], corner[1]], [far[0], far[1]], [corner[0], far[1]]]


def geojson(key, label=None):
    features = []
    for square in SQUARES[key]:
        properties = {"objectType": "annotation"} | ({"classification": {"names": [label]}} if label else {})
        closed = [*ring(*square), ring(*square)[0]]
        features.append(
            {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [closed]}, "properties": properties}
        )
    return json.dumps({"type": "FeatureCollection", "features": features})


def labelme(key, label="gland"):
    shapes = [{"label": label, "points": ring(*square), "shape_type": "polygon"} for square in SQUARES[key][:1]]
    shapes += [{"label": label, "points": square, "shape_type": "rectangle"} for square in SQUARES[key][1:]]
    size = {"imageHeight": SHAPE[0], "imageWidth": SHAPE[1]}
    return json.dumps({"version": "5", "flags": {}, "shapes": shapes, "imagePath": f"{key}.png"} | size)


def aperio(key, label="gland"):
    regions = "".join(
        '<Region Type="0" NegativeROA="0"><Vertices>'
        + "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in ring(*square))
        + "</Vertices></Region>"
        for square in SQUARES[key]
    )
    layer = f'<Annotation Id="1" Name="{label}"><Regions><RegionAttributeHeaders/>{regions}</Regions></Annotation>'
    return f'<?xml version="1.0"?><Annotations MicronsPerPixel="0.5">{layer}</Annotations>'


FORMATS = {".geojson": geojson, ".json": labelme, ".xml": aperio}


@pytest.mark.parametrize("place", ["annotations/{}", "images/{}", "labels/{}_mask", "outlines/anno_{}"])
@pytest.mark.parametrize("suffix", FORMATS)
def test_outlines_on_whole_pixels_are_those_pixels(tmp_path, suffix, place):
    for key in "xy":
        put(tmp_path / "images" / f"{key}.png")
        path = tmp_path / f"{place.format(key)}{suffix}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(FORMATS[suffix](key))
    assert assert_masks(tmp_path).classes == ("ftu",)


@pytest.mark.parametrize("suffix", FORMATS)
def test_names_of_outlines_are_classes(tmp_path, suffix):
    (tmp_path / "annotations").mkdir()
    for key, label in (("x", "gland"), ("y", "lumen")):
        put(tmp_path / "images" / f"{key}.png")
        (tmp_path / "annotations" / f"{key}{suffix}").write_text(FORMATS[suffix](key, label))
    competition = Folder()
    x, y = competition.samples(tmp_path, "train")
    assert competition.classes == ("gland", "lumen")
    assert [runs.area for runs in competition.target(x)] == [9 * 7, 0]
    assert [runs.area for runs in competition.target(y)] == [0, 5 * 20 + 11 * 11]


def one_file(root, text, suffix=".geojson"):
    put(root / "images" / "x.png")
    (root / "annotations").mkdir()
    (root / "annotations" / f"x{suffix}").write_text(text)
    competition = Folder()
    samples, faults = competition.inspect(root, "train")
    return competition, samples, faults


def feature(rings, label="gland", kind="Polygon"):
    return {"geometry": {"type": kind, "coordinates": rings}, "properties": {"classification": {"name": label}}}


def test_objects_may_overlap_and_have_holes_and_what_is_ignored_does_not_count(tmp_path):
    features = [
        feature([ring((2, 2), (12, 12)), ring((4, 4), (8, 8))]),
        feature([[ring((10, 2), (20, 12))]], kind="MultiPolygon"),
        feature([ring((0, 0), (33, 4))], "Ignore*"),
    ]
    competition, (sample,), faults = one_file(tmp_path, json.dumps(features))
    assert faults == []
    wanted_HW = np.zeros(SHAPE, bool)
    wanted_HW[2:12, 2:20] = True
    wanted_HW[4:8, 4:8] = False
    np.testing.assert_array_equal(competition.target(sample).to_mask(), wanted_HW)
    ignored_HW = np.zeros(SHAPE, bool)
    ignored_HW[:4] = True
    np.testing.assert_array_equal(competition.ignored(sample).to_mask(), ignored_HW & ~wanted_HW)


def test_collections_within_collections_are_their_members(tmp_path):
    polygon = feature([ring((2, 2), (12, 12))])
    parts = [feature([ring((x, 4), (x + 3, 9))])["geometry"] for x in (14, 20)]
    pair = polygon | {"geometry": {"type": "GeometryCollection", "geometries": parts}}
    nested = {"type": "FeatureCollection", "features": [polygon, pair]}
    text = json.dumps({"type": "FeatureCollection", "features": [nested]})
    competition, (sample,), faults = one_file(tmp_path, text)
    assert faults == []
    wanted_HW = np.zeros(SHAPE, bool)
    wanted_HW[2:12, 2:12] = wanted_HW[4:9, 14:17] = wanted_HW[4:9, 20:23] = True
    np.testing.assert_array_equal(competition.target(sample).to_mask(), wanted_HW)


def test_a_mask_that_labelme_keeps_as_a_picture_is_its_pixels(tmp_path):
    wanted_HW = np.random.default_rng(0).random(SHAPE) < 0.5
    wanted_HW[0] = wanted_HW[:, 0] = False
    wanted_HW[0, 0] = wanted_HW[-1, -1] = True
    picture = base64.b64encode(cv2.imencode(".png", wanted_HW.astype(np.uint8) * 255)[1]).decode()
    corners = [[0, 0], [SHAPE[1] - 1, SHAPE[0] - 1]]
    shapes = [{"label": "g", "shape_type": "mask", "points": corners, "mask": picture}]
    competition, (sample,), faults = one_file(tmp_path, json.dumps({"shapes": shapes, "imagePath": "x.png"}), ".json")
    assert faults == []
    np.testing.assert_array_equal(competition.target(sample).to_mask(), wanted_HW)


def test_a_negative_region_is_a_hole(tmp_path):
    text = aperio("x").replace(
        "</Regions>",
        '<Region NegativeROA="1"><Vertices><Vertex X="4" Y="3"/><Vertex X="6" Y="3"/>'
        '<Vertex X="6" Y="6"/><Vertex X="4" Y="6"/></Vertices></Region></Regions>',
    )
    competition, (sample,), faults = one_file(tmp_path, text, ".xml")
    assert faults == []
    assert competition.target(sample).area == 9 * 7 - 2 * 3


@pytest.mark.parametrize(
    ("text", "suffix", "words"),
    [
        (json.dumps([feature([3, 4], kind="Point")]), ".geojson", "feature 1: its geometry is a Point"),
        (json.dumps([feature([[[1, 1], [2, 2]]])]), ".geojson", "feature 1: a ring of 2 points"),
        (json.dumps([feature([ring((0, 0), (900, 900))])]), ".geojson", "far outside the image of (20, 33)"),
        (
            json.dumps(
                [
                    feature([ring((0, 0), (9, 9))], "a"),
                    feature([ring((0, 0), (9, 9))], "b"),
                    {"geometry": feature([ring((0, 0), (5, 5))])["geometry"], "properties": {}},
                ]
            ),
            ".json",
            "without a class",
        ),
        (
            json.dumps([feature([ring((0, 0), (9, 9))], name) for name in ("a", "A")]),
            ".json",
            "in several spellings: a, A",
        ),
        (
            json.dumps(
                [
                    feature([ring((2, -9), (5, -3))]),
                    feature([ring((1, -19), (4, -1))]),
                    feature([ring((0, -1), (4, 3))]),
                ]
            ),
            ".json",
            "2 of 3 outlines have no pixel of the image",
        ),
        (labelme("x").replace('"imageWidth": 33', '"imageWidth": 66'), ".json", "the file says (20, 66)"),
        (json.dumps([feature([ring((0, 0), (0.5, 0.9))])]), ".geojson", "shares of the image's sides"),
        (labelme("x").replace("polygon", "linestrip"), ".json", "shape 1: a linestrip has no area"),
        (labelme("x").replace('"polygon"', '"mask", "mask": ""'), ".json", "shape 1: is malformed"),
        (labelme("x").replace('"polygon"', '"circle"').replace("[[", "[[1e308, 1e999], ["), ".json", "are no numbers"),
        (json.dumps([{"properties": {}}]), ".geojson", "feature 1: has no geometry"),
        (aperio("x").replace('Type="0"', 'Type="3"'), ".xml", "region 1: a region of type 3 has no area"),
        ("<ASAP_Annotations/>", ".xml", "its root is ASAP_Annotations"),
        ("<Annotations>", ".xml", "no outlines of QuPath"),
        ('{"features": 3}', ".json", "no list of features"),
    ],
)
def test_outlines_that_are_at_fault_are_named(tmp_path, text, suffix, words):
    _, _, faults = one_file(tmp_path, text, suffix)
    assert len(faults) == 1
    assert words in faults[0].rule
    assert "(x: " not in faults[0].rule  # no fault within a fault
    assert faults[0].file.startswith(str(tmp_path / "annotations"))


@pytest.mark.parametrize("suffix", [".geojson", ".json"])
def test_a_class_that_no_file_can_hold_is_refused(tmp_path, suffix):
    _, _, faults = one_file(tmp_path, FORMATS[suffix]("x", "half\ud800"), suffix)
    assert len(faults) == 1
    assert r"no names in UTF-8: 'half\ud800'; " in f"{faults[0].rule}; "


@pytest.mark.parametrize(
    "place", ["annotations/instances_default.json", "annotations.json", "coco.json", "images/_annotations.coco.json"]
)
def test_a_coco_file_is_found_where_tools_write_it(tmp_path, place):
    images = [{"id": n, "file_name": f"train\\{key}.png", "height": 20, "width": 33} for n, key in enumerate("xy")]
    notes = [
        {"image_id": n, "segmentation": [np.ravel(ring(*square)).tolist() for square in SQUARES[key]]}
        for n, key in enumerate("xy")
    ]
    for key in "xy":
        put(tmp_path / "images" / f"{key}.png")
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text(json.dumps({"images": images, "annotations": notes}))
    (tmp_path / "folds.json").write_text('{"a": 0}')
    assert_masks(tmp_path)
    (tmp_path / "instances_val.json").write_text(json.dumps({"info": {}, "images": [], "annotations": []}))
    (fault,) = Folder().inspect(tmp_path, "train")[1]
    assert "several kinds of truth" in fault.rule
    assert "instances_val.json" in fault.rule
