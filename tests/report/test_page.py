"""Pages: valid and self-contained HTML, everything escaped, whole files or none, honest tables."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from histofold.report.blocks import (
    BrowsedSlide,
    Browser,
    Facts,
    Figure,
    Gallery,
    Legend,
    Linked,
    Section,
    Table,
    Text,
    Viewer,
)
from histofold.report.dataset import write_dataset_report
from histofold.report.page import Page, write_page
from html_pages import EVIL, Document, parse


def render(*blocks, title: str = "T", section: str = "S") -> Document:
    return parse(Page(title, "sub", [Section(section, blocks)]).render())


def photo(height: int = 200, width: int = 300) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def png(height: int = 20, width: int = 30) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(photo(height, width)).save(buffer, "PNG")
    return buffer.getvalue()


def test_everything_is_escaped() -> None:
    figure = Figure(png(), EVIL, f'"{EVIL}')
    document = render(
        Text([EVIL]),
        Facts({EVIL: EVIL}),
        Table([EVIL], [[EVIL]], EVIL),
        Gallery([figure]),
        figure,
        Legend([(EVIL, (1, 2, 3))]),
        Viewer(figure, {EVIL: figure}),
        title=EVIL,
        section=EVIL,
    )
    assert document.text.count(EVIL) >= 10
    assert document.named("img")[0]["alt"] == f'"{EVIL}'


def test_no_blocks_and_no_sections_are_still_a_page() -> None:
    assert "empty" in parse(Page("empty", "", []).render()).text
    assert "bare" in render(Table(["a"], []), Gallery([]), Facts({}), Text([]), title="bare").text


def test_a_switch_lays_one_layer_over_a_picture() -> None:
    layer = Figure(png(200, 300), alt="truth of 7")
    viewer = Viewer(Figure(photo(), "slide 7"), {"truth": layer, "errors": layer}, shown="errors")
    document = render(viewer, Gallery([viewer]), Facts({}))
    buttons = [button for button in document.named("input") if button["name"] != "theme"]
    assert len({button["name"] for button in buttons}) == 2, "each viewer has a switch of its own"
    assert [button["class"] for button in buttons if "checked" in button] == ["at2", "at2"]
    assert [image["class"] for image in document.named("img")] == ["photo", "over at1", "over at2"] * 2


def test_a_browser_names_pictures_beside_the_page(tmp_path) -> None:
    (tmp_path / "pictures").mkdir()
    names = ["a&b.png", 'c"d.png']
    for name in names:
        (tmp_path / "pictures" / name).write_bytes(png())
    linked = [Figure(Linked(f"pictures/{name}", (20, 30)), EVIL) for name in names]
    slides = [BrowsedSlide(linked[0], [Viewer(linked[0], {"truth": linked[1]})]) for _ in range(3)]
    html = Page("T", "", [Section("S", [Browser(slides, ["truth"])])]).render()
    document = parse(html, tmp_path)
    assert len(document.named("img")) == 9
    groups = [button["name"] for button in document.named("input") if button["name"] != "theme"]
    assert {name: groups.count(name) for name in groups} == {"switch-1": 2, "slides-1": 4}
    assert "file:" in html
    assert "file:" not in Page("T", "", [Section("S", [linked[0], Text(["plain"])])]).render()


@pytest.mark.parametrize(("names", "shown"), [("abcde", "a"), ("ab", "c")])
def test_a_switch_refuses_what_it_cannot_show(names, shown) -> None:
    with pytest.raises(ValueError, match="at most 4"):
        Viewer(Figure(png()), dict.fromkeys(names, Figure(png())), shown=shown)


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
