"""Leaks between what folds were trained on and what they are scored on."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from histofold.schema.sample import Sample
from histofold.trust.audit import audit_run


def made_run(groups, tiles_of=None):
    """Two folds of six images; gives (folds, sources)."""
    folds = pd.DataFrame({"id": list("abcdef"), "group": groups, "stratum": "", "fold": [0, 0, 0, 1, 1, 1]})
    samples = {
        key: Sample(id=key, image_path=Path(f"{key}.png"), group=group)
        for key, group in zip("abcdef", groups, strict=True)
    }
    index = pd.DataFrame({"id": list("abcdef"), "fold": tiles_of or folds["fold"]})
    source = SimpleNamespace(role="folds", folds=folds, samples=samples, index=index, key=lambda key: key)
    runs = []
    for fold in (0, 1):
        inside = folds["fold"] == fold
        record = SimpleNamespace(
            dice_by_id=dict.fromkeys(folds.loc[inside, "id"], 0.5),
            trained_on=dict.fromkeys(folds.loc[~inside, "id"], "stamp"),
        )
        runs.append(SimpleNamespace(fold=fold, record=record))
    return runs, [source]


def found(audit):
    return [check.found for check in audit.checks]


def test_a_clean_run_says_how_much_was_looked_at():
    audit = audit_run(*made_run(["p", "p", "q", "r", "r", "s"]))
    assert audit.is_clean
    assert audit.patients == ""
    assert [check.compared for check in audit.checks] == [6, 4, 6]


def test_each_leak_is_found():
    audit = audit_run(*made_run(["p", "p", "q", "q", "r", "s"]))
    assert found(audit) == [0, 1, 0]
    assert "group q stands in folds 0, 1" in audit.notices[0]
    folds, sources = made_run(["p", "p", "q", "r", "r", "s"])
    folds[0].record.trained_on["a"] = "stamp"
    assert found(audit_run(folds, sources)) == [1, 1, 0], "its group is then on both sides too"
    audit = audit_run(*made_run(["p", "p", "q", "r", "r", "s"], [1, 0, 0, 1, 1, 1]))
    assert found(audit) == [0, 0, 1]
    assert not audit.is_clean


@pytest.mark.parametrize("groups", [list("abcdef"), [""] * 6])
def test_unknown_patients_are_no_leak_and_are_named(groups):
    audit = audit_run(*made_run(groups))
    assert audit.is_clean
    assert "no patient is known" in audit.patients
