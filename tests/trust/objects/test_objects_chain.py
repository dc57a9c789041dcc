"""A run of objects from tiles to packaged weights: every stage takes what the one before left."""

import json

import pandas as pd
import pytest

from histofold.commands.main import main
from histofold.schema.manifest import load_manifest
from histofold.schema.parse import to_toml
from histofold.schema.run_record import read_records
from small_cells import Cells, built_cells, cells_experiment, use_cells

pytestmark = pytest.mark.slow
NAMES = ("a-0", "a-1", "a-2", "b-0", "b-1", "b-2")


@pytest.fixture(scope="module", autouse=True)
def known_cells():
    with pytest.MonkeyPatch.context() as patch:
        use_cells(patch)
        yield


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A dataset and a run of two folds, evaluated and packaged."""
    root = tmp_path_factory.mktemp("objects")
    dataset = built_cells(root, names=NAMES, empty=("b-2",))
    experiment = cells_experiment(
        dataset, train={"steps": 60, "validate_every": 60, "save_every": 60}, optim={"lr": 5e-3, "ema": 0.9}
    )
    (root / "cells.toml").write_text(to_toml(experiment))
    assert main(f"train {root}/cells.toml --runs {root}/runs".split()) == 0
    return root


@pytest.fixture(scope="module")
def evaluated(project):
    assert main(f"evaluate {project}/runs/cells".split()) == 0
    return project / "runs" / "cells"


def test_an_evaluation_agrees_with_training_and_with_the_host(project, evaluated):
    summary = json.loads((evaluated / "summary.json").read_text())
    records = read_records(evaluated).values()
    for record in records:
        values = summary["folds"][str(record.fold)]
        assert values["score_of_own_settings"] == pytest.approx(record.dice), "the same code, the same settings"
    assert summary["metric"] == "AP50"
    assert 0.1 < summary["score"] <= 1
    assert summary["images"] == 6
    oof = pd.read_csv(evaluated / "oof.csv").set_index("id")
    competition = Cells()
    samples = competition.samples(project / "raw", "train")
    assert oof["true"].to_dict() == {sample.id: len(competition.objects(sample)) for sample in samples}
    assert oof["ap"].isna().to_dict() == {name: name == "b-2" for name in NAMES}
    html = (evaluated / "report.html").read_text()
    assert "Errors by kind" in html
    assert "AP50 by source, fold and group" in html


def test_again_it_predicts_nothing_and_finds_the_same(evaluated, monkeypatch, capsys):
    before = {name: (evaluated / name).read_bytes() for name in ("oof.csv", "summary.json", "objects.json")}
    monkeypatch.setattr("histofold.trust.objects.found._detected", lambda *_: pytest.fail("it was kept"))
    assert main(["evaluate", str(evaluated)]) == 0
    assert {name: (evaluated / name).read_bytes() for name in before} == before
    *_, headline, report = capsys.readouterr().out.splitlines()
    assert headline.startswith("out-of-fold AP50 0.")
    assert report == f"report: {evaluated / 'report.html'}"


def test_it_is_packaged_as_it_was_scored(project, evaluated):
    chosen = {"grow_px": 1.0, "min_area_px": 20}
    (evaluated / "objects.json").write_text(json.dumps(chosen))
    assert main(f"package {evaluated} --out {project}/weights".split()) == 0
    manifest = load_manifest(project / "weights")
    assert manifest.classes == ("cell", "boundary", "distance")
    assert {name: getattr(manifest.objects, name) for name in chosen} == chosen
    summary = json.loads((evaluated / "summary.json").read_text())
    assert [member.oof_score for member in manifest.members] == [
        pytest.approx(values["score"], abs=1e-6) for values in summary["folds"].values()
    ]
    assert main(["check", "weights", str(project / "weights")]) == 0


def test_its_dataset_is_shown_object_by_object(project):
    page = project / "checked.html"
    assert main(f"check dataset {project}/raw --competition cells --report {page}".split()) == 0
    html = page.read_text()
    assert "Objects of each source" in html
    assert "Each object has a colour" in html
