"""What was planted in folders of several seeds is named, and clean folders are left in peace."""

import dataclasses
import json
import math

import cv2
import numpy as np
import pytest

from histofold.competitions.folder import Folder
from histofold.competitions.hubmap_2022 import Hubmap2022
from histofold.core.faults import InputError
from histofold.core.rle.runs import Runs, runs_from_mask
from histofold.data.check import audit_folder
from histofold.data.cleaning import outside_mask
from histofold.data.duplicates import DuplicatePair
from histofold.data.explore.comparison import MIN_COMPARED, rank_slides
from histofold.data.explore.folder import Explorer, explore_folder
from histofold.data.explore.label_fit import fit_labels
from histofold.data.explore.notices import Notice, find_notices, folder_notices, shift_notices
from histofold.data.explore.outlines import draw_rings, polygon_dice
from histofold.data.explore.slides import label_facts
from histofold.data.tiles.masks import any_class
from histofold.schema.sample import Sample
from histofold.synth.hubmap_2022.folder import make_hubmap_2022
from histofold.synth.hubmap_2022.options import COPY_FAULTS, FILE_FAULTS, TABLE_FAULTS, Planted

NAMED_BY = {
    "row_major": {"order of the runs"},
    "transposed": {"turned labels", "outlines", "order of the runs"},
    "shifted": {"mask shift"},
    "blank_labelled": {"blank labelled"},
    "wrong_image": {"stray labels"},
    "near_duplicate": {"near-duplicates"},
    "near_duplicate_other_patient": {"near-duplicates"},
}
"""Kinds of notices that name what was planted."""


def planted_folder(root, seed, kinds, num_train=28, share=0.75, side=600):
    return make_hubmap_2022(
        root,
        num_train=num_train,
        num_test=1,
        seed=seed,
        max_side=side,
        progress=False,
        planted=Planted(faults={kind: share / len(kinds) for kind in kinds}),
    )


def explored(root):
    competition = Hubmap2022()
    return explore_folder(competition, competition.samples(root, "train"))


def unnamed(key, notices):
    """What was planted and is not named: (id, kind)."""
    kinds_of = {}
    for notice in notices:
        for sample_id in notice.ids:
            kinds_of.setdefault(sample_id, set()).add(notice.kind)
    planted = [(name, fault.kind) for name, faults in key.planted.items() for fault in faults]
    assert planted, "nothing was planted"
    return [(name, kind) for name, kind in planted if not NAMED_BY[kind] & kinds_of.get(name, set())]


@pytest.mark.slow
def test_all_that_was_planted_is_named(tmp_path):
    key = planted_folder(tmp_path / "c", 22, tuple(NAMED_BY))
    exploration = explored(tmp_path / "c")
    assert unnamed(key, exploration.notices) == []
    spoilt = set(key.planted) | {
        str(fault.numbers["original"])
        for faults in key.planted.values()
        for fault in faults
        if fault.kind in COPY_FAULTS
    }
    blamed = {sample_id for notice in exploration.notices for sample_id in notice.ids}
    assert blamed <= spoilt, "an image without fault is named"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [31, 33])
def test_a_clean_folder_gives_no_notice(tmp_path, seed):
    make_hubmap_2022(tmp_path / "c", num_train=15, num_test=1, seed=seed, max_side=600, progress=False)
    assert list(map(str, explored(tmp_path / "c").notices)) == []


@pytest.mark.parametrize("seed", [41])
def test_faults_of_rows_and_files_are_named_all_at_once(tmp_path, seed):
    kinds = (*TABLE_FAULTS, *FILE_FAULTS)
    key = planted_folder(tmp_path / "c", seed, kinds, num_train=2 * len(kinds), share=1.0, side=200)
    competition = Hubmap2022()
    explorer = Explorer(competition)
    faults = audit_folder(competition, tmp_path / "c", decode=True, look=explorer.look)[1]
    assert {fault.id for fault in faults} == set(key.planted)
    assert {fault.kind for faults in key.planted.values() for fault in faults} == set(kinds)
    for fault in faults:
        assert all((fault.id, fault.file, fault.rule, fault.remedy))
    assert {fact.sample.id for fact in explorer.facts}.isdisjoint(
        name for name, planted in key.planted.items() if planted[0].kind in FILE_FAULTS
    )


def facts_of(mask, name="a", **changes):
    sample = Sample(id=name, image_path=None, organ=changes.pop("organ", "lung"), group=changes.pop("group", name))
    return dataclasses.replace(label_facts(sample, runs_from_mask(mask)), **changes)


def blob(height=60, width=40):
    mask = np.zeros((height, width), bool)
    mask[5:30, 8:25] = True
    return mask


def test_row_major_runs_show_without_an_image():
    text = runs_from_mask(blob(), "C")
    misread = Runs(text.starts, text.lengths, text.shape_hw, "F").to_mask()
    (notice,) = find_notices([facts_of(misread)])
    assert notice.kind == "order of the runs"
    assert find_notices([facts_of(blob())]) == []


def test_labels_of_nothing_and_of_everything_are_survived():
    assert [n.kind for n in find_notices([facts_of(np.zeros((9, 7), bool))])] == ["no labels"]
    full = find_notices([facts_of(np.ones((9, 7), bool)), facts_of(np.ones((1, 1), bool), "b")])
    assert [(n.kind, n.ids) for n in full] == [("all labelled", ("a",)), ("all labelled", ("b",))]
    assert "mask_values in folder.toml" in full[0].text


def test_labels_of_what_lies_around_the_objects_look_inverted():
    (notice,) = find_notices([facts_of(~blob())])
    assert notice.kind == "inverted"
    assert "100% of its border" in notice.text


def box(corner, far, shape_hw=(60, 40)):
    mask_HW = np.zeros(shape_hw, bool)
    mask_HW[corner[0] : far[0], corner[1] : far[1]] = True
    return mask_HW


def test_outlines_that_were_not_filled_are_named():
    ring_HW = box((5, 8), (50, 33)) & ~box((7, 10), (48, 31))
    (notice,) = find_notices([facts_of(ring_HW)])
    assert notice.kind == "outlines alone"
    line_HW = box((5, 8), (7, 33)) | box((30, 2), (32, 38))
    assert find_notices([facts_of(line_HW)]) == []


def test_a_class_of_no_image_is_named():
    competition = Folder()
    competition.classes = ("gland", "lumen")
    explorer = Explorer(competition)
    nothing = runs_from_mask(blob() & False)
    for key in "ab":
        explorer.look_at_labels(Sample(id=key, image_path=None), (runs_from_mask(blob()), nothing))
    (notice,) = [each for each in explorer.finish().notices if each.kind == "unused class"]
    assert notice.ids == ("lumen",)


def test_one_drawing_for_several_images_is_named():
    facts = [facts_of(blob(), "a"), facts_of(box((1, 1), (50, 9)), "b"), facts_of(blob(), "c")]
    (notice,) = folder_notices([*facts, facts_of(blob() & False, "d"), facts_of(blob() & False, "e")])
    assert (notice.kind, notice.ids) == ("same labels", ("a", "c"))
    assert folder_notices(facts, [DuplicatePair("a", "c", 0.9)]) == [], "the same tissue twice has the same labels"


@pytest.mark.parametrize(("last", "count"), [(20, 1), (30, 0)])
def test_labels_of_a_folder_that_end_within_the_upper_left_are_named(last, count):
    facts = [facts_of(box((place, 2), (30 - place, last - place)), str(place)) for place in range(MIN_COMPARED)]
    assert [notice.kind for notice in folder_notices(facts)] == ["another scale"] * count
    assert folder_notices(facts[1:]) == []


def test_a_pair_across_groups_says_so():
    facts = [facts_of(blob(), "a", group="P1"), facts_of(blob(), "b", group="P2"), facts_of(blob(), "c", group="P2")]
    pairs = [DuplicatePair("a", "b", 0.9), DuplicatePair("b", "c", 0.8)]
    first, second = find_notices(facts, pairs)
    assert "groups P1 and P2" in first.text
    assert "of one group" in second.text
    assert str(first).startswith("a, b: near-duplicates: ")


def test_the_odd_one_out_is_ranked_first_and_named():
    facts = [facts_of(blob(), str(place), focus=0.5 + 0.01 * place) for place in range(8)]
    facts.append(facts_of(blob(), "blurred", focus=0.01))
    assert rank_slides(facts)[0][0].sample.id == "blurred"
    assert [notice.ids for notice in find_notices(facts)] == [("blurred",)]
    assert rank_slides(facts[:3]) == [], "three slides have nothing that is usual"
    assert all(math.isfinite(distance) for _, _, distance in rank_slides(facts))


def test_several_classes_count_as_one():
    first, second = blob(), np.zeros((60, 40), bool)
    second[20:50, 20:] = second[0, 0] = True
    union = any_class((runs_from_mask(first), runs_from_mask(second)))
    np.testing.assert_array_equal(union.to_mask(), first | second)
    nothing = runs_from_mask(np.zeros((60, 40), bool))
    assert any_class((nothing, nothing)) == nothing


def annotated(tmp_path, rings):
    folder = tmp_path / "train_annotations"
    folder.mkdir(exist_ok=True)
    (folder / "a.json").write_text(rings if isinstance(rings, str) else json.dumps(rings))
    return Sample(id="a", image_path=tmp_path / "train_images" / "a.tiff")


def test_outlines_are_held_against_run_lengths(tmp_path):
    mask = np.zeros((90, 70), bool)
    mask[10:40, 20:50] = True
    sample = annotated(tmp_path, [[[20, 10], [49, 10], [49, 39], [20, 39]]])
    assert polygon_dice(Hubmap2022(), sample, runs_from_mask(mask)) == pytest.approx(1.0)
    mask[15:30, 25:45] = False
    assert polygon_dice(Hubmap2022(), sample, runs_from_mask(mask)) == pytest.approx(1.0), "holes are left out"
    assert polygon_dice(Hubmap2022(), sample, runs_from_mask(np.roll(mask, 30, axis=0))) < 0.9
    elsewhere = dataclasses.replace(sample, id="b")
    assert polygon_dice(Hubmap2022(), elsewhere, runs_from_mask(mask)) is None
    assert polygon_dice(Folder(), elsewhere, runs_from_mask(mask)) is None


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '[[["a", 1]]]', "[[[1, 2, 3]]]", "[[[1e30, 2]]]"])
def test_outlines_that_cannot_be_read_are_told(tmp_path, text):
    with pytest.raises(InputError, match="cannot be read"):
        polygon_dice(Hubmap2022(), annotated(tmp_path, text), runs_from_mask(blob()))


def test_rings_that_overlap_are_joined_and_scale_with_the_picture():
    rings = [[[10, 10], [49, 10], [49, 49], [10, 49]], [[30, 30], [69, 30], [69, 69], [30, 69]]]
    drawn = draw_rings(rings, (80, 100), (80, 100))
    assert drawn[35, 35]
    assert drawn.sum() == 2 * 40**2 - 20**2
    assert draw_rings(rings, (80, 100), (40, 50)).sum() == pytest.approx(drawn.sum() / 4, rel=0.1)


STAINS = {
    "haematoxylin-eosin": ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11)),
    "PAS": ((0.65, 0.65, 0.35), (0.17, 0.92, 0.33)),
    "silver": ((0.57, 0.58, 0.58), (0.30, 0.60, 0.75)),
    "trichrome": ((0.30, 0.85, 0.45), (0.85, 0.40, 0.10)),
    "DAB": ((0.27, 0.57, 0.78), (0.65, 0.70, 0.29)),
}


def stained(seed, stain, few):
    """A core of tissue on glass with some denser objects, and their mask."""
    rng = np.random.default_rng(seed)
    height, width = 160, 220
    mask = np.zeros((height, width), np.uint8)
    for y, x in rng.permutation([(50, 60), (90, 120), (60, 165), (115, 70), (80, 40)])[: 1 if few else 5]:
        cv2.ellipse(mask, (int(x), int(y)), (15, 11), float(rng.uniform(0, 180)), 0, 360, 1, -1)
    y, x = np.ogrid[:height, :width]
    tissue = ((y - 80) / 75) ** 2 + ((x - 110) / 105) ** 2 < 1
    texture = cv2.GaussianBlur(rng.normal(size=(height, width)), (0, 0), 4) * 2
    amounts = np.stack([0.25 + 0.3 * mask + 0.2 * texture, 0.35 - 0.1 * mask + rng.normal(0, 0.05, mask.shape)], axis=2)
    density = amounts.clip(0) * tissue[:, :, None] @ np.array(STAINS[stain])
    return np.clip(245 * np.exp(-density) + rng.normal(0, 1.5, density.shape), 0, 255).astype(np.uint8), mask > 0


@pytest.mark.parametrize("few", [False, True])
@pytest.mark.parametrize("stain", list(STAINS))
def test_clean_images_of_any_stain_give_no_notice(stain, few):
    facts = []
    for seed in range(6):
        image_HWC, mask = stained(seed, stain, few)
        glass = outside_mask(image_HWC, mask)
        facts.append(facts_of(mask, str(seed), fit=fit_labels(image_HWC, mask, glass_HW=glass), blank_labelled=0.0))
    assert list(map(str, find_notices(facts))) == []


def test_words_say_what_was_seen():
    image_HWC, mask = stained(1, "trichrome", False)
    fit = fit_labels(image_HWC, np.roll(mask, 8, axis=1))
    (notice,) = shift_notices(facts_of(mask, "a", fit=fit))
    assert "moved by about 0 rows up and 8 columns to the left they would follow the colours" in notice.text
    assert notice.shift_px == (0, -8)


def test_a_notice_is_one_line():
    assert str(Notice(kind="k", ids=("a", "b"), text="t")) == "a, b: k: t"
