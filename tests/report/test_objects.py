"""The page of an evaluation of objects."""

import re

import pytest

from histofold.core.metrics.ranked import ApRule
from histofold.report.blocks import Table
from histofold.report.evaluation import write_evaluation_report
from histofold.report.object_errors import error_blocks, error_pictures
from html_pages import parse
from small_objects import found_image, made_evaluation


@pytest.mark.parametrize("limit", [None, 4])
def test_the_page_says_what_the_evaluation_found(tmp_path, monkeypatch, limit):
    rule = ApRule(host="coco", iou=0.5, max_detections=limit)
    images = [found_image(number, shrunk=number % 3, unsure=1, stray=4) for number in range(6)]
    evaluation = made_evaluation(monkeypatch, tmp_path, images, rule=rule, metric="AP50")
    write_evaluation_report(evaluation)
    html = (tmp_path / "report.html").read_text()
    page = parse(html, tmp_path)
    assert sum(image["src"].endswith("-errors.png") for image in page.named("img")) == len(images)
    for title in (
        "Precision and recall",
        "AP50 by source, fold and group",
        "Errors by kind",
        "Examples",
        "Leaks",
        "Timing",
        "Settings",
    ):
        assert re.search(rf"<h2[^>]*>{title}</h2>", html), title
    assert f"{evaluation.score:.4f}" in html
    assert all(image.sample.id in html for image in images)
    assert ("ithout the limit of 4 detections" in html) == (limit is not None)
    assert (tmp_path / "overlays.png").stat().st_size > 1000


def test_errors_are_counted_by_source_and_each_kind_is_shown(tmp_path, monkeypatch):
    images = [found_image(number, shrunk=2 * (number % 2), stray=3) for number in range(4)]
    evaluation = made_evaluation(monkeypatch, tmp_path, images)
    table, *_ = error_blocks(evaluation)
    assert isinstance(table, Table)
    rows = {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}
    assert set(rows) == {"dataset_1", "dataset_2", "all"}
    assert rows["all"]["true"] == 32
    for name, word in (("missed", "missed"), ("hallucinated", "hallucinated"), ("too_thin", "too thin")):
        count = sum(len(getattr(errors, name)) for errors in evaluation.errors)
        assert rows["all"][word] == rows["dataset_1"][word] + rows["dataset_2"][word] == count
        assert evaluation.summary["errors"][name] == count
        shown = [title for title, _ in error_pictures(evaluation) if title.startswith(f"{word}: ")]
        assert len(shown) == min(4, count)
