import base64
import json
import zlib

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from histofold.commands.main import main
from histofold.competitions.registry import detect_competition, get_competition, submission_competition
from histofold.competitions.vasculature_2023 import Vasculature2023
from histofold.core.faults import InputError
from histofold.core.objects.detections import Detections
from histofold.core.objects.instances import Objects, join_objects
from histofold.data.check import audit_folder
from small_vessels import box, vessel

SHAPE = (30, 41)
META = "id,source_wsi,dataset,i,j\n"
ROWS = {"aa": "1,1,1024,512", "bb": "1,1,1536,512", "cc": "2,2,0,100", "dd": "6,3,7,8"}
POLYGONS = {
    "aa": [vessel(box(2, 2, 12, 12)), vessel(box(20, 5, 30, 15)), vessel(box(10, 10, 22, 20), kind="unsure")],
    "bb": [vessel(box(3, 4, 9, 9), kind="glomerulus")],
    "cc": [vessel(box(5, 5, 25, 25))],
}


def write_picture(path):
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (*SHAPE, 3), np.uint8))


def write_polygons(root, polygons):
    lines = [json.dumps({"id": key, "annotations": notes}) for key, notes in polygons.items()]
    (root / "polygons.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture
def folder(tmp_path):
    for key in ROWS:
        write_picture(tmp_path / "train" / f"{key}.tif")
    write_picture(tmp_path / "test" / "72e4.tif")
    (tmp_path / "tile_meta.csv").write_text(META + "".join(f"{key},{row}\n" for key, row in ROWS.items()))
    (tmp_path / "sample_submission.csv").write_text("id,height,width,prediction_string\n72e4,30,41,\n")
    write_polygons(tmp_path, POLYGONS)
    return tmp_path


def as_detections(objects, scores=None):
    return Detections(objects, np.linspace(0.9, 0.1, len(objects)) if scores is None else np.array(scores))


def test_labelled_tiles_are_samples_with_their_place_and_strip(folder):
    competition = detect_competition(folder)
    samples, faults = audit_folder(competition, folder, decode=True)
    assert (competition.name, competition.task, faults) == ("vasculature_2023", "instances", [])
    assert [sample.id for sample in samples] == ["aa", "bb", "cc"]
    assert [sample.source for sample in samples] == ["dataset_1", "dataset_1", "dataset_2"]
    assert [sample.place for sample in samples] == [("wsi_1", 512, 1024), ("wsi_1", 512, 1536), ("wsi_2", 100, 0)]
    assert [sample.is_scored for sample in samples] == [True, True, False]
    assert len({sample.group for sample in samples}) == 3
    assert {sample.organ for sample in samples} == {"kidney"}
    assert [sample.shape_hw for sample in samples] == [SHAPE] * 3


def test_truth_is_the_vessels_and_as_a_mask_their_union(folder):
    competition = Vasculature2023()
    first, second, _ = competition.samples(folder, "train")
    assert competition.objects(first).areas.tolist() == [100, 100]
    assert competition.target(first).area == 200
    assert competition.unsure(first).areas.tolist() == [120]
    assert competition.ignored(first).area == 120 - 4 - 10  # of the overlap with both vessels nothing is ignored
    assert len(competition.objects(second)) == 0
    assert competition.target(second).area == 0
    assert competition.ignored(second) is None
    with pytest.raises(InputError, match="check the dataset first"):
        Vasculature2023().target(first)


@pytest.mark.parametrize(("policy", "objects", "ignored"), [("vessel", 3, None), ("background", 2, None)])
def test_unsure_outlines_are_what_the_setting_says(folder, policy, objects, ignored):
    (folder / "vasculature_2023.toml").write_text(f'unsure = "{policy}"\n')
    competition = Vasculature2023()
    first, *_ = competition.samples(folder, "train")
    assert len(competition.objects(first)) == objects
    assert competition.ignored(first) is ignored
    (folder / "vasculature_2023.toml").write_text('unsure = "perhaps"\nscored_datasets = [4]\n')
    with pytest.raises(InputError, match="perhaps"):
        Vasculature2023().samples(folder, "train")


def test_scores_are_of_vessels_alone(folder):
    (folder / "vasculature_2023.toml").write_text('unsure = "background"\n')
    competition = Vasculature2023()
    samples = competition.samples(folder, "train")
    perfect = {sample.id: as_detections(competition.objects(sample)) for sample in samples}
    score = competition.score_objects(perfect, samples)
    assert score.mean == 1.0
    assert set(score.by_id.values()) == {1.0}
    assert list(score.further) == ["AP50", "AP75"]
    wrong = {**perfect, "bb": as_detections(Objects.from_masks([np.ones(SHAPE)]), [1.0])}
    worse = competition.score_objects(wrong, samples)
    assert worse.mean < 1
    assert worse.by_id == {"aa": 1.0, "bb": 0.0, "cc": 1.0}
    none = competition.score_objects({}, samples)
    assert (none.mean, none.by_id) == (0.0, {"aa": 0.0, "bb": 1.0, "cc": 0.0})


def test_what_people_were_unsure_of_is_free(folder):
    competition = Vasculature2023()
    first, *_ = competition.samples(folder, "train")
    both = join_objects([competition.unsure(first), competition.objects(first)])
    assert competition.score_objects({"aa": as_detections(both)}, [first]).mean == 1.0
    (folder / "vasculature_2023.toml").write_text('unsure = "background"\n')
    competition.samples(folder, "train")
    assert competition.score_objects({"aa": as_detections(both)}, [first]).mean < 1


def test_rows_are_read_by_pycocotools(folder):
    competition = Vasculature2023()
    first, *_ = competition.samples(folder, "train")
    objects = competition.objects(first)
    row = competition.object_row("aa", as_detections(objects, [0.25, 0.75]))
    text = competition.submission_text({"aa": row, "bb": competition.fallback(first)})
    header, line, empty = text.splitlines()
    assert header == "id,height,width,prediction_string"
    assert empty == "bb,30,41,"
    key, height, width, items = line.split(",")
    fields = items.split(" ")
    assert (key, height, width, fields[::3], fields[1::3]) == ("aa", "30", "41", ["0"] * 2, ["0.750000", "0.250000"])
    for packed, runs in zip(fields[2::3], (objects[1], objects[0]), strict=True):
        counts = zlib.decompress(base64.b64decode(packed))
        np.testing.assert_array_equal(coco_mask.decode({"size": [30, 41], "counts": counts}), runs.to_mask())


def test_the_test_split_is_that_of_the_sample_submission(folder):
    competition = Vasculature2023()
    (sample,) = competition.samples(folder, "test")
    assert (sample.id, sample.source, sample.place) == ("72e4", "dataset_1", None)
    with (folder / "tile_meta.csv").open("a") as stream:
        stream.write("72e4,2,1,5,6\n")
    (sample,) = competition.test_samples(folder)
    assert sample.place == ("wsi_2", 6, 5)
    assert competition.fallback(sample) == "30,41,"
    sample.image_path.unlink()
    assert competition.fallback(sample) == "512,512,"
    assert submission_competition(folder / "sample_submission.csv").name == "vasculature_2023"


def test_without_a_list_of_ids_tiles_without_outlines_are_what_is_predicted(folder):
    (folder / "sample_submission.csv").unlink()
    competition = detect_competition(folder)
    (sample,) = competition.samples(folder, "test")
    assert (sample.id, sample.source, sample.place) == ("dd", "dataset_3", ("wsi_6", 8, 7))
    assert sample.image_path.is_file()
    write_polygons(folder, {key: [] for key in ROWS})
    with pytest.raises(InputError, match="nothing to predict"):
        competition.samples(folder, "test")


def test_every_fault_of_the_tables_is_named_at_once(folder):
    rows = {**ROWS, "bb": "1,4,1536,512", "cc": "2,2,-1,x", "dd": ",3,7,8"}
    (folder / "tile_meta.csv").write_text(
        META + "".join(f"{key},{row}\n" for key, row in rows.items()) + "aa,1,1,0,0\n"
    )
    write_polygons(folder, {**POLYGONS, "zz": []})
    competition = get_competition("vasculature_2023")
    found = {(fault.id, fault.rule[:20]) for fault in competition.inspect(folder, "train")[1]}
    assert found == {
        ("aa", "duplicate id"),
        ("bb", "dataset '4' is none "),
        ("cc", "i '-1' and j 'x' are"),
        ("dd", "no source_wsi"),
        ("zz", "tile_meta.csv has no"),
    }
    (folder / "tile_meta.csv").write_text("id,source_wsi,dataset,i\n")
    faults = competition.inspect(folder, "train")[1]
    assert {fault.id for fault in faults} == {"j", *POLYGONS, "zz"}


def test_absent_tiles_are_faults_where_most_are_there_and_a_notice_in_a_part(folder):
    competition = Vasculature2023()
    (folder / "train" / "cc.tif").unlink()
    samples, faults = competition.inspect(folder, "train")
    assert [fault.id for fault in faults] == ["cc"]
    assert faults[0].file.endswith("polygons.jsonl:3")
    (folder / "train" / "aa.tif").unlink()
    samples, faults = competition.inspect(folder, "train")
    assert (faults, [sample.id for sample in samples]) == ([], ["bb"])
    assert "2 of 3 labelled tiles are absent" in competition.notices[0].rule
    (folder / "train" / "bb.tif").unlink()
    (fault,) = competition.inspect(folder, "train")[1]
    assert fault.rule == "no labelled tile has an image"


def test_tiles_without_labels_or_rows_are_noticed(folder):
    write_polygons(folder, {"aa": POLYGONS["aa"]})
    write_picture(folder / "train" / "ee.tif")
    competition = Vasculature2023()
    assert competition.inspect(folder, "train")[1] == []
    assert [notice.rule.partition(",")[0] for notice in competition.notices] == [
        "1 tiles have no row in tile_meta.csv",
        "2 tiles of datasets 1 and 2 have no outlines",
    ]


def test_the_real_tiles_are_whole_and_found_again(shared_data, tmp_path):
    root = shared_data / "vasculature_layout"
    competition = detect_competition(root)
    samples, faults = audit_folder(competition, root, decode=True)
    assert faults == []
    assert len(samples) == 5
    assert sum(len(competition.objects(sample)) for sample in samples) == 39
    perfect = {sample.id: as_detections(competition.objects(sample)) for sample in samples}
    assert competition.score_objects(perfect, samples).mean == 1.0
    assert main(["check", "dataset", str(root), "--report", str(tmp_path / "report.html")]) == 0
