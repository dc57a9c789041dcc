"""The exploratory part of a data set's page: from labels alone, from slides, and from next to nothing."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest

from histofold.commands.main import main
from histofold.competitions.hubmap_2022 import Hubmap2022
from histofold.core.rle.runs import runs_from_mask
from histofold.data.check import labels_as_folder
from histofold.data.duplicates import DuplicatePair
from histofold.data.explore.folder import Exploration, Explorer
from histofold.data.explore.notices import Notice, find_notices
from histofold.data.explore.slides import label_facts
from histofold.report.dataset import write_dataset_report
from histofold.report.explore import explore_sections
from histofold.report.graphs.dataset import facts_table, plot_colours, plot_slides
from histofold.schema.sample import Sample

pytestmark = pytest.mark.slow

EVIL = "<script>alert(1)</script>"
LARGEST = 5_000_000


def fact(name, organ="lung", source="HPA", pixel_size_um=0.4, **changes):
    mask = np.zeros((60, 40), bool)
    mask[5 : 10 + len(name), 8:25] = True
    sample = Sample(id=name, image_path=None, organ=organ, source=source, group=name[:1], pixel_size_um=pixel_size_um)
    return dataclasses.replace(label_facts(sample, runs_from_mask(mask)), **changes)


def page_of(path, exploration, folds=None, samples=(), noticed=()):
    sections = explore_sections(exploration, folds, samples, noticed)
    write_dataset_report(path, facts={"images": len(exploration.facts)}, folds=folds, explored=sections)
    return path.read_text()


def titles(page):
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_labels_alone_give_all_but_colours(tmp_path):
    facts = [fact("a1"), fact("a22", "spleen"), fact("b333", "spleen", "Hubmap", None)]
    folds = pd.DataFrame({"id": ["a1", "a22", "b333"], "group": ["a", "a", "b"], "stratum": "x", "fold": [0, 0, 1]})
    page = page_of(tmp_path / "r.html", Exploration(facts), folds)
    assert titles(page) == ["Folds", "Slides", "Organs and sources by fold", "Groups"]
    assert "No leak between folds" in page
    assert "tiles" not in page
    assert "3 images in 2 groups" in page


def test_everything_that_is_there_is_shown_and_escaped(tmp_path):
    lab = (60.0, 10.0, -12.0)
    looked = {"inside_lab": lab, "outside_lab": (70.0, 5.0, -3.0)}
    facts = [fact(f"{place}", EVIL, focus=0.4 + place / 100, **looked) for place in range(7)]
    notices = [Notice(kind="mask shift", ids=("0",), text=EVIL)]
    exploration = Exploration(facts, [DuplicatePair("0", "1", 0.9)], notices)
    picture = [("title " + EVIL, np.full((30, 40, 3), 200, np.uint8))]
    page = page_of(tmp_path / "r.html", exploration, samples=picture, noticed=picture)
    assert titles(page) == [
        *("Slides", "Colours", "Slides by organ", "Groups", "Noticed in the slides"),
        "Slides by how unusual they are",
    ]
    assert EVIL not in page
    assert "2 images are near-duplicates, in 1 clusters" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page), "one file, nothing fetched"
    assert "prefers-color-scheme: dark" in page


def test_nothing_gives_a_page_too(tmp_path):
    assert titles(page_of(tmp_path / "r.html", Exploration())) == []


@pytest.mark.parametrize("facts", [[fact("a")], [fact("a", "", "", None), fact("b", "", "x", 6.3)]])
def test_graphs_of_little(facts):
    for graph in (plot_slides(facts), plot_colours(facts)):
        assert graph.startswith(b"\x89PNG")
    assert plot_slides(facts) == plot_slides(facts)
    assert len(facts_table(facts)) == len(facts)


def test_the_areas_of_objects_are_in_square_micrometres():
    (row,) = facts_table([fact("a", pixel_size_um=0.5)]).to_dict("records")
    assert row["object_area_um2"] == 6 * 17 * 0.25


@pytest.mark.shared_data
def test_the_real_labels_give_a_page_and_no_notice(shared_data, project_root, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = shared_data / "hubmap2022_labels" / "train_rebuilt.csv.gz"
    folds = project_root / "folds.csv"
    assert main(["check", "dataset", str(table), "--report", "r.html", "--folds", str(folds)]) == 0
    assert "notices: 0" in capsys.readouterr().out
    page = (tmp_path / "r.html").read_text()
    assert len(page) < LARGEST
    assert "351 images in 342 groups" in page
    for organ, count in (("kidney", 99), ("largeintestine", 58), ("lung", 48), ("prostate", 93), ("spleen", 53)):
        assert re.search(rf'<td>{organ}</td><td class="number">{count}</td>', page), organ


@pytest.mark.shared_data
def test_real_labels_read_in_the_wrong_order_are_noticed(shared_data):
    """Every third real slide that is not square, its runs written row by row."""
    adapter = Hubmap2022()
    with labels_as_folder(shared_data / "hubmap2022_labels" / "train_rebuilt.csv.gz") as root:
        samples, _ = adapter.inspect(root, "train")
    oblong = [sample for sample in samples if sample.shape_hw[0] != sample.shape_hw[1]][::3]
    explorer = Explorer(adapter)
    for sample in oblong:
        mask_HW = adapter.target(sample).to_mask()
        misread = runs_from_mask(mask_HW, "C")
        explorer.look_at_labels(sample, dataclasses.replace(misread, order="F"))
    named = {notice.ids[0] for notice in find_notices(explorer.facts) if notice.kind == "order of the runs"}
    assert named == {sample.id for sample in oblong}


@pytest.mark.slow
@pytest.mark.shared_data
def test_real_slides_give_a_page_and_no_notice(shared_data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["check", "dataset", str(shared_data / "glas_hubmap_layout"), "--report", "r.html"]) == 0
    assert "notices: 0" in capsys.readouterr().out
    page = (tmp_path / "r.html").read_text()
    assert len(page) < LARGEST
    assert "68 images in 11 groups" in page


def test_single_objects_have_a_section_of_their_own(tmp_path):
    areas = {"a1": [4, 900, 30], "b2": [], "c3": [17]}
    sources = {"a1": "dataset_1", "b2": "dataset_1", "c3": "dataset_2"}
    facts = [
        fact(name, source=sources[name], objects=len(sizes), object_areas_px=np.array(sizes, int))
        for name, sizes in areas.items()
    ]
    page = page_of(tmp_path / "r.html", Exploration(facts), samples=[("a1", np.zeros((9, 9, 3), np.uint8))])
    assert titles(page)[:3] == ["Slides", "Objects", "Slides by organ"]
    assert "Each object has a colour" in page
    (row,) = re.findall(r"<tr><td[^>]*>dataset_1</td>.*?</tr>", page)
    cells = re.findall(r"<td[^>]*>(.*?)</td>", row)
    assert cells[1:4] == ["2", "1", "3"], "images, those without objects, objects"
    none = [fact("d", objects=0, object_areas_px=np.zeros(0, int))]
    assert "Objects" in titles(page_of(tmp_path / "none.html", Exploration(none)))
