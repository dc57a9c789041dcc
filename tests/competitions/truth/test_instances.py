"""The objects of plain folders keep apart, whatever form their truth has."""

import json
from functools import partial

import cv2
import numpy as np
import pytest

from histofold.competitions.folder import Folder
from histofold.core.faults import InputError
from histofold.core.objects.detections import Detections
from real_layouts import as_coco, as_dsb_2018, as_geojson, write_picture

SHAPE = (48, 60)


def slides():
    """Two images with objects that touch, one of which touches the corner."""
    generator = np.random.default_rng(0)
    for key in ("a", "b"):
        labels_HW = np.zeros(SHAPE, np.uint16)
        labels_HW[0:9, 0:7], labels_HW[9:20, 0:7], labels_HW[30:44, 20:33] = 3, 7, 300
        if key == "b":
            labels_HW[34:38, 25:30] = 0  # a hole
            labels_HW[40:, 50:] = 301
        yield key, generator.integers(0, 255, (*SHAPE, 3), np.uint8), labels_HW


def as_labels(given, out):
    for key, image_HWC, labels_HW in given:
        write_picture(out / "images" / f"{key}.png", image_HWC)
        write_picture(out / "masks" / f"{key}.png", labels_HW)


@pytest.mark.parametrize("lay_out", [as_labels, as_dsb_2018, as_coco, partial(as_geojson, decimals=1)])
def test_every_form_keeps_the_same_objects(tmp_path, lay_out):
    lay_out(slides(), tmp_path)
    root = tmp_path / "stage1_train" if (tmp_path / "stage1_train").is_dir() else tmp_path
    (root / "folder.toml").write_text('task = "instances"\n')
    competition = Folder()
    samples = competition.samples(root, "train")
    assert competition.task == "instances"
    found = {}
    for sample, (key, _, labels_HW) in zip(samples, slides(), strict=True):
        assert sample.id == key
        objects = competition.objects(sample)
        masks = {runs.to_mask().tobytes() for runs in objects}
        numbers = np.unique(labels_HW[labels_HW > 0])
        assert masks == {(labels_HW == number).tobytes() for number in numbers}
        assert len(objects) == len(numbers)
        assert competition.target(sample).area == np.count_nonzero(labels_HW)
        assert competition.ignored(sample) is None
        found[key] = Detections(objects, np.linspace(1, 0.5, len(objects)))
    score = competition.score_objects(found, samples)
    assert (score.mean, score.further) == (1.0, {"AP75": 1.0})


def test_one_number_alone_is_a_mask_whose_pieces_are_objects(tmp_path):
    labels_HW = np.zeros(SHAPE, np.uint8)
    labels_HW[:5, :5] = labels_HW[5:9, 5:9] = labels_HW[20:30, 20:30] = 255  # the first two meet at a corner
    as_labels([("a", np.full((*SHAPE, 3), 90, np.uint8), labels_HW)], tmp_path)
    (tmp_path / "folder.toml").write_text('task = "instances"\n')
    competition = Folder()
    (sample,) = competition.samples(tmp_path, "train")
    assert competition.objects(sample).areas.tolist() == [41, 100]


def test_aperio_regions_are_objects(tmp_path):
    write_picture(tmp_path / "images" / "a.png", np.full((*SHAPE, 3), 90, np.uint8))
    boxes = [(2, 3, 12, 13), (10, 3, 20, 13)]

    def region(left, top, right, bottom):
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        vertices = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in corners)
        return f'<Region Type="0"><Vertices>{vertices}</Vertices></Region>'

    regions = "".join(region(*box) for box in boxes)
    text = f"<Annotations><Annotation><Regions>{regions}</Regions></Annotation></Annotations>"
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "a.xml").write_text(text)
    (tmp_path / "folder.toml").write_text('task = "instances"\n')
    competition = Folder()
    (sample,) = competition.samples(tmp_path, "train")
    objects = competition.objects(sample)
    assert objects.boxes.tolist() == [[3, 2, 13, 12], [3, 10, 13, 20]]
    assert competition.target(sample).area == 180


def test_crowds_of_coco_are_unsure(tmp_path):
    as_coco(slides(), tmp_path)
    path = tmp_path / "annotations.json"
    data = json.loads(path.read_text())
    data["annotations"][0]["iscrowd"] = 1
    path.write_text(json.dumps(data))
    (tmp_path / "folder.toml").write_text('task = "instances"\n')
    competition = Folder()
    first, _ = competition.samples(tmp_path, "train")
    assert (len(competition.objects(first)), competition.unsure(first).areas.tolist()) == (2, [63])
    assert competition.ignored(first).area == 63


def test_truth_that_keeps_no_objects_apart_is_refused(tmp_path):
    write_picture(tmp_path / "images" / "a.png", np.full((*SHAPE, 3), 90, np.uint8))
    (tmp_path / "rles.csv").write_text("id,rle\na,1 5\n")
    (tmp_path / "folder.toml").write_text('task = "instances"\n')
    with pytest.raises(InputError, match="not read as objects"):
        Folder().samples(tmp_path, "train")


def test_real_nuclei_keep_their_numbers(shared_data, tmp_path):
    source = shared_data / "dsb2018_colour"
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        for path in sorted((source / name).iterdir())[:3]:
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    (tmp_path / "folder.toml").write_text('task = "instances"\n')
    competition = Folder()
    for sample in competition.samples(tmp_path, "train"):
        labels_HW = cv2.imread(str(tmp_path / "masks" / f"{sample.id}.png"), cv2.IMREAD_UNCHANGED)
        assert len(competition.objects(sample)) == len(np.unique(labels_HW[labels_HW > 0]))
