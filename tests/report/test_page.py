"""Pages: valid and self-contained HTML, everything escaped, whole files or none, honest tables."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from histofold.report.dataset import write_dataset_report
from histofold.report.masks import write_oof_report
from histofold.report.page import (
    Facts,
    Figure,
    Gallery,
    Legend,
    Page,
    Section,
    Table,
    Text,
    write_page,
)

EVIL = '<script>alert("1")</script>'
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Document(HTMLParser):
    """Reads a page strictly: every tag closed in order; keeps tags, addresses, table cells and visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names))
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        if "style" in self.open:
            return
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    def named(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def parse(html: str) -> Document:
    """Parse a page and check what every page must keep to."""
    assert html.startswith("<!DOCTYPE html>")
    assert "@import" not in html
    assert "url(" not in html
    document = Document(html)
    anchors = {attributes["id"] for _, attributes in document.tags if "id" in attributes}
    for tag, attributes in document.tags:
        assert tag not in {"script", "iframe", "object", "embed", "link"}
        assert attributes.get("src", "data:image/").startswith("data:image/")
        assert attributes.get("href", "#")[0] == "#"
        assert attributes.get("href", "#")[1:] in anchors | {""}
        assert not any(name.startswith("on") for name in attributes)
    for image in document.named("img"):
        size = Image.open(io.BytesIO(base64.b64decode(image["src"].split(",")[1], validate=True))).size
        assert size == (int(image["width"]), int(image["height"]))
        assert "alt" in image
    return document


def render(*blocks, title: str = "T", section: str = "S") -> Document:
    return parse(Page(title, "sub", [Section(section, blocks)]).render())


def photo(height: int = 200, width: int = 300) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def png(height: int = 20, width: int = 30) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(photo(height, width)).save(buffer, "PNG")
    return buffer.getvalue()


def oof_table(images: int = 40) -> pd.DataFrame:
    generator = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "id": [f"{number:03d}" for number in range(images)],
            "fold": [number % 5 for number in range(images)],
            "organ": [("kidney", "lung")[number % 2] for number in range(images)],
            "source": "HPA",
            "dice": generator.random(images),
        }
    )


def oof_report(path, **changes) -> Document:
    arguments = {
        "oof": oof_table(),
        "summary": {"out-of-fold Dice": 0.8731, "95% interval": (0.861, 0.8842), "images": 1351},
        "curves": [],
        "overlays": [("001, Dice 0.5", photo())],
        "thresholds": {"default": 0.45, "kidney/HPA": 0.5},
        "notes": ["Thresholds are nested."],
    }
    write_oof_report(path, **(arguments | changes))
    return parse(path.read_text(encoding="utf-8"))


def test_everything_is_escaped() -> None:
    figure = Figure(png(), EVIL, f'"{EVIL}')
    document = render(
        Text([EVIL]),
        Facts({EVIL: EVIL}),
        Table([EVIL], [[EVIL]], EVIL),
        Gallery([figure]),
        figure,
        Legend([(EVIL, (1, 2, 3))]),
        title=EVIL,
        section=EVIL,
    )
    assert document.text.count(EVIL) >= 10
    assert document.named("img")[0]["alt"] == f'"{EVIL}'


def test_no_blocks_and_no_sections_are_still_a_page() -> None:
    assert "empty" in parse(Page("empty", "", []).render()).text
    assert "bare" in render(Table(["a"], []), Gallery([]), Facts({}), Text([]), title="bare").text


def test_pictures_keep_their_pixels_or_are_shrunk_to_the_page() -> None:
    document = render(Figure(photo(3000, 1000)), Figure(photo(20, 30)), Figure(png()))
    large, small, graph = document.named("img")
    assert (large["height"], large["width"], large["class"]) == ("1600", "533", "photo")
    assert large["src"].startswith("data:image/jpeg")
    assert small["src"].startswith("data:image/png")
    assert base64.b64decode(graph["src"].split(",")[1]) == png()
    assert graph["class"] == "graph"


def test_pictures_come_from_paths_too(tmp_path) -> None:
    (tmp_path / "graph.png").write_bytes(png())
    Image.fromarray(photo()).save(tmp_path / "photo.jpg")
    Image.fromarray(photo()[..., 0]).save(tmp_path / "grey.bmp")
    names = ("graph.png", "photo.jpg", "grey.bmp")
    images = render(*(Figure(tmp_path / name) for name in names)).named("img")
    assert [image["class"] for image in images] == ["graph", "photo", "photo"]
    assert base64.b64decode(images[1]["src"].split(",")[1]) == (tmp_path / "photo.jpg").read_bytes()


def test_table_aligns_numbers_and_dashes_blanks() -> None:
    rows = [
        ["a", 0.5, 3, None, True],
        ["b", float("nan"), 12345, pd.NA, np.bool_(False)],
        ["c", np.float32(2), 0, None, None],
    ]
    document = render(Table(["name", "dice", "n", "blank", "flag"], rows, bars=["dice"]))
    assert document.rows[1:] == [
        ["a", "0.5000", "3", "–", "yes"],
        ["b", "–", "12345", "–", "no"],
        ["c", "2.0000", "0", "–", "–"],
    ]
    assert ["number" in cell.get("class", "") for cell in document.named("th")] == [False, True, True, False, False]
    bars = [re.search(r"size: ([\d.]+)%", cell["style"])[1] for cell in document.named("td") if "style" in cell]
    assert bars == ["50.0", "100.0"]


def test_table_refuses_ragged_rows() -> None:
    with pytest.raises(ValueError, match="2 columns"):
        Table(["a", "b"], [[1, 2], [3]])


def test_facts_read_well() -> None:
    values = {
        "out-of-fold Dice": 0.87312,
        "95% interval": (0.861, 0.8842),
        "images": 12345,
        "median_dice": float("nan"),
    }
    text = render(Facts(values)).text
    assert all(part in text for part in ("0.8731", "0.8610 – 0.8842", "12,345", "Median dice", "–"))


def test_write_page_leaves_no_neighbour_and_makes_folders(tmp_path) -> None:
    write_page(tmp_path / "a" / "page.html", "T", "S", [])
    assert [entry.name for entry in (tmp_path / "a").iterdir()] == ["page.html"]


@pytest.mark.parametrize(
    "bad", [Figure(Path("missing.png")), Figure(np.zeros((4, 4), np.float32)), Figure(b"no picture")]
)
def test_a_failure_while_rendering_leaves_the_old_page(tmp_path, bad: Figure) -> None:
    path = tmp_path / "page.html"
    write_page(path, "old", "", [])
    before = path.read_bytes()
    with pytest.raises((OSError, ValueError)):
        write_page(path, "new", "", [Section("s", [bad])])
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]


def test_oof_report_lists_every_image_from_worst_to_best(tmp_path) -> None:
    oof = oof_table()
    oof.loc[[3, 11], "dice"] = np.nan
    oof.loc[7, "id"] = EVIL
    document = oof_report(tmp_path / "r.html", oof=oof)
    start = document.rows.index(["id", "dice", "organ", "source", "fold"])
    listed = document.rows[start + 1 :]
    assert len(listed) == len(oof)
    assert sorted(row[0] for row in listed) == sorted(oof["id"])
    assert [row[1] for row in listed[:2]] == ["–", "–"]
    scores = [float(row[1]) for row in listed[2:]]
    assert scores == sorted(scores)


def test_oof_report_organ_table_agrees_with_numpy(tmp_path) -> None:
    oof = oof_table()
    oof.loc[3, "dice"] = np.nan
    document = oof_report(tmp_path / "r.html", oof=oof)
    start = next(place for place, row in enumerate(document.rows) if row[0] == "organ")
    assert document.rows[start] == ["organ", "n", "mean", "median", "min", "max", "not scored"]
    for row, organ, missing in zip(document.rows[start + 1 : start + 3], ("kidney", "lung"), (0, 1), strict=True):
        dice = oof.loc[oof["organ"] == organ, "dice"].to_numpy()
        dice = dice[~np.isnan(dice)]
        expected = [np.mean(dice), np.median(dice), dice.min(), dice.max()]
        assert row == [organ, str(len(dice)), *(f"{value:.4f}" for value in expected), str(missing)]


def test_oof_report_names_organs_that_have_no_name(tmp_path) -> None:
    document = oof_report(tmp_path / "r.html", oof=oof_table(4).assign(organ=""))
    assert "not named" in [row[0] for row in document.rows]


def test_oof_report_shows_headline_thresholds_notes_and_pictures(tmp_path) -> None:
    (tmp_path / "fold0").mkdir()
    (tmp_path / "fold0" / "curves.png").write_bytes(png())
    document = oof_report(tmp_path / "r.html", curves=[tmp_path / "fold0" / "curves.png"])
    assert all(
        part in document.text for part in ("0.8731", "0.8610 – 0.8842", "1,351", "Thresholds are nested.", "fold0")
    )
    assert ["kidney/HPA", "0.500"] in document.rows
    assert [image["class"] for image in document.named("img")] == ["graph", "photo", "graph"]


def test_oof_report_of_bare_results(tmp_path) -> None:
    oof = oof_table().assign(dice=np.nan)
    document = oof_report(tmp_path / "r.html", oof=oof, overlays=[], thresholds={}, notes=[])
    titles = [part for part in ("Examples", "Learning curves", "Thresholds") if part in document.text]
    assert titles == []
    assert "Out-of-fold Dice" in document.text


def dataset_tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    folds = pd.DataFrame(
        {
            "id": [str(number) for number in range(12)],
            "group": [f"g{number // 2}" for number in range(12)],
            "stratum": [("kidney", "lung")[number // 6] for number in range(12)],
            "fold": [number // 2 % 3 for number in range(12)],
        }
    )
    index = folds.loc[folds.index.repeat(4), ["id", "fold"]].reset_index(drop=True)
    index = index.assign(
        mask_fraction=[0.0, 0.1, 0.2, 0.3] * 12, tissue_fraction=0.75, bin=["none", *["some"] * 3] * 12
    )
    return index.assign(tile_id=index.index.astype(str)), folds


def dataset_report(path, index: pd.DataFrame, folds: pd.DataFrame, **changes) -> Document:
    arguments = {"facts": {"images": 12}, "overlays": [("tile 3", photo())], "notices": [EVIL, "second"]}
    write_dataset_report(path, index=index, folds=folds, **(arguments | changes))
    return parse(path.read_text(encoding="utf-8"))


def test_dataset_report_counts_folds_and_strata(tmp_path) -> None:
    document = dataset_report(tmp_path / "d.html", *dataset_tables())
    assert ["0", "4", "2", "16", "12", "0.1500", "0.7500"] in document.rows
    assert ["lung", "2", "2", "2", "6"] in document.rows
    assert "No leak between folds: none of the 6 groups" in document.text
    assert ["1", EVIL] in document.rows
    assert len(document.named("img")) == 2


def test_dataset_report_says_which_group_is_split(tmp_path) -> None:
    index, folds = dataset_tables()
    folds.loc[0, "fold"] = 2
    text = dataset_report(tmp_path / "d.html", index, folds).text
    assert "1 groups stand in more than one fold" in text
    assert "g0" in text
    assert "4 tiles stand in another fold" in text
    assert "No leak" not in text


def test_dataset_report_reads_numeric_ids_and_foreign_tiles(tmp_path) -> None:
    index, folds = dataset_tables()
    foreign = index.iloc[:3].assign(id="elsewhere", fold=-1)
    index = pd.concat([index.assign(id=index["id"].astype(int)), foreign])
    assert "No leak" in dataset_report(tmp_path / "d.html", index, folds).text


def test_dataset_report_without_tiles(tmp_path) -> None:
    index, folds = dataset_tables()
    document = dataset_report(tmp_path / "d.html", index.iloc[:0], folds, overlays=[], notices=[])
    assert ["0", "4", "2", "0", "0", "–", "–"] in document.rows
    assert document.named("img") == []
