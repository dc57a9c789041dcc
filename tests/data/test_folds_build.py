"""Folds from the command line: what is written, what is told, and what is kept."""

import pandas as pd
import pytest

from histofold.commands.main import main
from histofold.schema.parse import to_toml
from small_datasets import BASE, draw, make_folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Eight pictures of two patients."""
    folder = tmp_path_factory.mktemp("folds_build")
    (folder / "E.toml").write_text(to_toml(BASE))
    make_folder(folder / "raw", {f"m{n}": draw(n) for n in range(8)}, group=lambda name: f"patient{int(name[1]) % 2}")
    return folder


def build(raw, out, *options):
    arguments = ["--data", str(raw / "raw"), "--experiment", str(raw / "E.toml"), "--out", str(out), "--workers", "1"]
    return main(["build", *arguments, *options])


def test_folds_by_image_are_built_told_and_kept(raw, tmp_path, caplog):
    for _ in range(2):
        caplog.clear()
        assert build(raw, tmp_path / "out", "--fold-by", "image") == 0
        folds = pd.read_csv(tmp_path / "out" / "folds.csv")
        assert (folds.groupby("group")["fold"].nunique() == 2).all()
        assert "group patient0 stands in folds 0, 1" in caplog.text
        report = (tmp_path / "out" / "dataset_report.html").read_text()
        assert "group patient1 stands in folds 0, 1" in report
    assert build(raw, tmp_path / "out") == 2, "read as folds by group they leak"


def test_folds_by_group_tell_nothing(raw, tmp_path, caplog):
    assert build(raw, tmp_path / "out") == 0
    assert "leak" not in caplog.text
    folds = pd.read_csv(tmp_path / "out" / "folds.csv")
    assert (folds.groupby("group")["fold"].nunique() == 1).all()


def test_a_hold_out_is_built_and_kept(raw, tmp_path, capsys):
    assert build(raw, tmp_path / "out", "--holdout", "4") == 0
    folds = pd.read_csv(tmp_path / "out" / "folds.csv")
    assert sorted(folds["fold"]) == [-1] * 4 + [0] * 4
    assert folds.loc[folds["fold"] == 0, "group"].nunique() == 1
    assert build(raw, tmp_path / "out", "--holdout", "2") == 2
    assert "its folds are kept" in capsys.readouterr().err
    assert build(raw, tmp_path / "other", "--fold-by", "donor") == 2
    assert "must be one of" in capsys.readouterr().err


def test_a_column_of_the_folders_table_rules_the_folds(raw, tmp_path):
    table = pd.read_csv(raw / "raw" / "images.csv", dtype=str)
    table.assign(scanner=["a", "b"] * 4).to_csv(raw / "raw" / "images.csv", index=False)
    assert build(raw, tmp_path / "out", "--fold-by", "column:scanner") == 0
    folds = pd.read_csv(tmp_path / "out" / "folds.csv", dtype=str).merge(table.assign(scanner=["a", "b"] * 4), on="id")
    assert (folds.groupby("scanner")["fold"].nunique() == 1).all()
