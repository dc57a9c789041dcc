"""The table at the end of a kernel's log: the worst first, aligned, never long, and nothing of it made up."""

import re

from histofold.predict.submission.runner import ImageRecord, RunSummary
from histofold.predict.submission.summary import SUMMARY_LINES, summary_lines


def summary_of(images, **options):
    failed = {image.id: image.reason for image in images if image.outcome == "fallback"}
    done = sum(image.outcome in ("predicted", "degraded") for image in images)
    taken_over = sum(image.outcome == "taken over" for image in images)
    options = {"device": "cpu", **options}
    return RunSummary(done, failed, taken_over, 61.4, images=tuple(images), **options)


def record(key, outcome="predicted", seconds=1.0, reason="", **options):
    return ImageRecord(key, seconds=seconds, outcome=outcome, reason=reason, **options)


def test_cells_and_order():
    images = [
        record("a", shape_hw=(200, 50), area_px=2500, passes="8 of 8", seconds=1.25),
        record("b", "fallback", 0.5, "ImageError: b.tiff is cut short"),
        record("c", "taken over", 0.0),
        record("d", "degraded", 2.0, "the clock", shape_hw=(1, 7), area_px=7, passes="1 of 8"),
        record("e", shape_hw=(10, 10), seconds=3.0, passes="8 of 8"),
    ]
    title, header, *rows = summary_lines(summary_of(images, steps=("views left out: 3",)))
    assert title == "summary: 5 images in 61 s on cpu: 2 predicted, 1 taken over, 1 degraded, 1 fallback"
    assert header.split() == ["id", "pixels", "seconds", "passes", "area", "%", "outcome", "reason"]
    assert [row.split()[0] for row in rows[:5]] == ["b", "d", "c", "e", "a"]
    assert rows[4].split() == ["a", "200", "x", "50", "1.25", "8", "of", "8", "25.00", "predicted"]
    assert rows[1].split()[:8] == ["d", "1", "x", "7", "2.00", "1", "of", "8"]
    assert rows[0].split()[:3] == ["b", "?", "0.50"]
    assert rows[5:] == [
        "reasons of fallback rows:",
        "  1 x ImageError: ID.tiff is cut short",
        "steps:",
        "  1 x views left out: 3",
    ]
    ends = {re.search(r"\S+(?= +\d+\.\d\d )", row).end() for row in (rows[3], rows[4])}
    columns = [row.index(word) for row, word in zip(rows, ("fallback", "degraded", "taken", "predicted"), strict=False)]
    assert len(set(columns)) == 1, "words begin in one column"
    assert len(ends) == 1, "numbers end in one column"


def test_hundreds_of_images_with_as_many_faults_stay_readable():
    images = [record(f"p{n}", shape_hw=(3000, 3000), seconds=n / 100) for n in range(300)]
    images += [
        record(f"f{n}", "fallback", 0.0, f"ImageError: /in/f{n}.tiff: strip {n} is cut short") for n in range(200)
    ]
    images += [record(f"g{n}", "fallback", 0.0, f"Kind{chr(65 + n)}: broken" + " and more" * 40) for n in range(20)]
    steps = tuple(f"image p{n}: out of memory" for n in range(40))
    lines = summary_lines(summary_of(images, steps=steps))
    assert len(lines) <= SUMMARY_LINES
    assert max(map(len, lines)) < 200
    assert "  200 x ImageError: FILE strip # is cut short" in lines
    assert "  and 13 others" in lines
    (rest,) = (line for line in lines if line.startswith("... and "))
    shown = sum("  fallback  " in line for line in lines)
    assert rest == f"... and {520 - shown} more: {220 - shown} fallback, 300 predicted; the slowest took 3.0 s"


def test_without_images_and_with_odd_ids():
    assert summary_lines(RunSummary(0, {}, 0, 0.2)) == [
        "summary: 0 images in 0 s: 0 predicted, 0 taken over, 0 degraded, 0 fallback",
        "id  pixels  seconds  passes  area %  outcome  reason",
    ]
    odd = record("a\nb" * 30, "fallback", reason="line\nbreak [ (")
    lines = summary_lines(summary_of([odd, record("(", "fallback", reason="about ( and 12")]))
    assert not any("\n" in line for line in lines)
    assert "  1 x about ID and #" in lines


def test_exactly_as_many_images_as_there_is_room_for_are_all_shown():
    for count in range(50, 70):
        lines = summary_lines(summary_of([record(f"i{n}") for n in range(count)]))
        assert len(lines) <= SUMMARY_LINES
        shown = sum(line.startswith("i") and "predicted" in line for line in lines)
        hidden = sum(int(re.search(r"and (\d+) more", line)[1]) for line in lines if line.startswith("..."))
        assert shown + hidden == count
