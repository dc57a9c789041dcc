"""The page of an evaluation of masks: its tables agree with the slides, its pictures are there."""

from dataclasses import replace

import pytest

from histofold.core.metrics.masks import dice
from histofold.core.rle.runs import class_runs
from histofold.report import mask_errors
from histofold.report.evaluation import write_evaluation_report
from histofold.report.mask_errors import chosen_errors, counted_words, piece_table, pixel_table, worst_pieces
from histofold.report.masks import part_tables
from histofold.report.slides import PICTURES_NAME, THUMBNAIL_SIDE
from histofold.trust.oof import FoldRun
from histofold.trust.scored import COUNTED_ERRORS
from html_pages import EVIL, parse
from small_masks import made_masks

pytestmark = pytest.mark.slow
IDS = ["a", "b", EVIL, "d", "e", "f&g", "h"]


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    """Seven slides of three patients, one of which has a name that no page may take for its own."""
    with pytest.MonkeyPatch.context() as patch:
        made = made_masks(patch, tmp_path_factory.mktemp("run"), IDS, patients=3)
        write_evaluation_report(made)
        yield made


@pytest.fixture(scope="module")
def page(evaluation):
    return parse((evaluation.run / "report.html").read_text(), evaluation.run)


def column(table, name):
    return [row[table.header.index(name)] for row in table.rows]


def test_the_page_is_whole_and_names_what_was_found(evaluation, page):
    titles = ("Thresholds", "Pixels and pieces", "Examples", "Every slide", "Patients", "Leaks", "Timing")
    assert all(title in page.text for title in titles)
    assert f"{evaluation.score:.4f}" in page.text
    assert EVIL in page.text
    listed = [row[0] for row in page.rows if row[0] in IDS]
    by_dice = evaluation.oof.sort_values("dice", kind="stable")["id"].tolist()
    assert listed == by_dice, "the worst first"


def test_parts_sum_up_to_the_images(evaluation):
    tables = part_tables(evaluation.oof, evaluation.table["group"].tolist(), evaluation.counts)
    assert [table.header[0] for table in tables] == ["organ", "source", "longer side", "share of the true mask", "fold"]
    for table in tables:
        assert sum(column(table, "images")) == len(IDS)
        total = sum(count * mean for count, mean in zip(column(table, "images"), column(table, "mean"), strict=True))
        assert total / len(IDS) == pytest.approx(evaluation.score)


def test_pixels_and_pieces_of_parts_sum_up_to_all(evaluation):
    pieces = piece_table(evaluation.counts, "organ")
    for name in ("true", "found", "matches", *COUNTED_ERRORS):
        *parts, everything = column(pieces, name)
        assert sum(parts) == everything == evaluation.counts[name].sum()
    precision, recall = (column(pieces, name)[-1] for name in ("precision", "recall"))
    matches = evaluation.counts["matches"].sum()
    assert precision == pytest.approx(matches / evaluation.counts["found"].sum())
    assert recall == pytest.approx(matches / evaluation.counts["true"].sum())
    pixels = pixel_table(evaluation.counts, "organ")
    counts = evaluation.counts[["hit_px", "predicted_px", "truth_px"]].sum()
    assert column(pixels, "precision")[-1] == pytest.approx(counts["hit_px"] / counts["predicted_px"])
    assert column(pixels, "recall")[-1] == pytest.approx(counts["hit_px"] / counts["truth_px"])


def test_scores_are_those_of_the_masks_that_are_shown(evaluation):
    from histofold.report.slides import shown_slides

    for place, shown in enumerate(shown_slides(evaluation, range(len(IDS)))):
        (truth,) = class_runs(evaluation.truth.target(shown.sample))
        (each,) = shown.classes
        assert (each.truth == truth.to_mask()).all(), "small slides are shown as they are"
        assert shown.score == evaluation.oof["dice"][place] == pytest.approx(dice(each.mask, each.truth))


def test_the_gravest_pieces_are_shown_of_each_kind_that_there_is(evaluation):
    titles = [title for title, _ in worst_pieces(evaluation)]
    for kind in COUNTED_ERRORS:
        slides = int((evaluation.counts[kind] > 0).sum())
        assert sum(title.startswith(f"{kind}: ") for title in titles) == min(3, slides)
    assert titles, "some network errs"


def test_pixels_pieces_and_errors_are_those_of_the_cleaning_that_the_page_names(evaluation, page, monkeypatch):
    own = {"seed_threshold": 0.0, "max_hole_um2": 0.0, "min_area_um2": 0.0}
    assert evaluation.summary["cleaning"]["own"] == own
    words = "masks with the run's own cleaning (seed_threshold 0, max_hole_um2 0, min_area_um2 0)"
    assert words in " ".join(page.text.split())
    assert counted_words({"own": own, "chosen": {}}).endswith("at the threshold of its score.")
    assert counted_words({"own": own, "chosen": {"max_hole_um2": 300.0}}).endswith("is cleaned with max_hole_um2 300.")
    shipped = [replace(fold, manifest=replace(fold.manifest, max_hole_um2=300.0)) for fold in evaluation.folds]
    cleaned_with = []
    monkeypatch.setattr(FoldRun, "ensemble", lambda fold: cleaned_with.append(fold.manifest.max_hole_um2) or [])
    assert worst_pieces(replace(evaluation, folds=shipped))
    assert set(cleaned_with) == {0.0}, "close-ups are of the errors that were counted"


def test_slides_that_take_too_long_are_not_predicted_again(evaluation, monkeypatch):
    everything = chosen_errors(evaluation)
    assert [kind for kind, *_ in everything] == sorted((kind for kind, *_ in everything), key=COUNTED_ERRORS.index)
    monkeypatch.setattr(mask_errors, "PREDICTED_SECONDS", 0.5)
    monkeypatch.setattr(mask_errors, "PREDICTED_SHARE", 0.0)
    few = chosen_errors(evaluation)
    assert len({sample_id for _, sample_id, _ in few}) == 1 < len({sample_id for _, sample_id, _ in everything})
    assert set(few) <= set(everything)


def test_pictures_beside_the_page_are_small_and_the_last_ones_alone(evaluation):
    folder = evaluation.run / PICTURES_NAME
    stale = folder / "0123.jpg"
    stale.write_bytes(b"of an earlier report")
    before = {path.name for path in folder.iterdir()} - {stale.name}
    write_evaluation_report(evaluation)
    assert {path.name for path in folder.iterdir()} == before
    assert len(before) == 5 * len(IDS)
    assert max(path.stat().st_size for path in folder.iterdir()) < 150_000
    assert THUMBNAIL_SIDE < 200


def test_several_classes_have_a_viewer_each(monkeypatch, tmp_path):
    evaluation = made_masks(monkeypatch, tmp_path, ["a", "b", "c"], classes=("gland", "vessel"))
    write_evaluation_report(evaluation)
    page = parse((tmp_path / "report.html").read_text(), tmp_path)
    opened = [image["src"] for image in page.named("img") if image["src"].endswith("errors.png")]
    assert len(opened) == len(set(opened)) == 6
    assert "gland, Dice" in page.text
    assert [row[0] for row in page.rows if row[0] in ("gland", "vessel", "all")][-3:] == ["gland", "vessel", "all"]
