"""A folds.csv, ours or anyone's, read and held against the images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from histofold.competitions.ids import meet_ids
from histofold.competitions.tables import log_faults, read_table
from histofold.core.faults import Fault, InputError, InputNotice
from histofold.data.folds import ALWAYS_TRAINED, FOLD_COLUMNS
from histofold.schema.sample import Sample


def read_folds(path: Path, samples: Sequence[Sample], fold_by: str = "group") -> pd.DataFrame:
    """Read folds.csv and hold it against the samples.

    Args:
        path: The file.
        samples: All training samples.
        fold_by: `tiles.fold_by`; where it is `image`, groups may be split.

    Returns:
        Table of `FOLD_COLUMNS`, fold as int, in the order of the samples.

    Raises:
        InputError: With every fault: samples without a fold, folds that are no numbers, groups that are split.
    """
    table = read_table(path, FOLD_COLUMNS)
    meant, notices = meet_ids(path, table["id"], [sample.id for sample in samples])
    log_faults(notices)
    table["id"] = table["id"].map(lambda key: meant.get(key, key))
    if not set(table["id"]) & {sample.id for sample in samples}:
        rule = f"none of the {len(samples)} images stands in this file"
        raise InputError([Fault("folds", str(path), rule, "it is of other data: leave it out, and folds are made")])
    table["fold"] = table["fold"].str.replace(r"\.0+$", "", regex=True)  # tables write so where a cell was empty once
    unknown = table.loc[~table["id"].isin(list(meant.values())), "id"].tolist()
    if unknown:
        rule = f"{len(unknown)} rows are of no image, the first is {unknown[0]}"
        log_faults([InputNotice("folds", str(path), rule, "they are left out: are images missing?")])
    faults = []
    bad = ~table["fold"].str.fullmatch(rf"\d+|{ALWAYS_TRAINED}")
    for key, value in table.loc[bad, ["id", "fold"]].itertuples(index=False):
        remedy = f"write 0, 1, 2, ..., or {ALWAYS_TRAINED} for an image that is always trained on"
        faults.append(Fault(key, str(path), f"fold {value!r} is not a number", remedy))
    fold_of = dict(zip(table["id"], table["fold"], strict=True))
    for sample in samples:
        if sample.id not in fold_of:
            faults.append(Fault(sample.id, str(path), "image without a fold", "build the folds anew, or add the row"))
    used = {fold_of[sample.id] for sample in samples if sample.id in fold_of}
    if used == {str(ALWAYS_TRAINED)}:
        faults.append(Fault("folds", str(path), "no image is held out", "give some images the fold 0"))
    elif len(used) == 1:
        remedy = f"give some another fold, or {ALWAYS_TRAINED}"
        faults.append(Fault("folds", str(path), "all images are in one fold: none is left to train on", remedy))
    if fold_by != "image":
        faults += _split_groups(path, table, samples)
    if faults:
        raise InputError(faults)
    chosen = table.set_index("id").loc[[sample.id for sample in samples]].reset_index()
    return chosen[list(FOLD_COLUMNS)].astype({"fold": int})


def _split_groups(path: Path, table: pd.DataFrame, samples: Sequence[Sample]) -> list[Fault]:
    """Groups that stand in several folds: those of the file, and those of our own tables.

    Images that are always trained on and never scored split no group: a fold leaves out those of its own groups.
    """
    unscored = {sample.id for sample in samples if not sample.is_scored}
    table = table[~(table["id"].isin(unscored) & (table["fold"] == str(ALWAYS_TRAINED)))]
    folds_of_group = table[table["group"] != ""].groupby("group")["fold"].nunique()
    faults = [
        Fault(group, str(path), "group stands in several folds: it leaks", "give it one fold")
        for group in folds_of_group.index[folds_of_group > 1]
    ]
    # The file may name the groups otherwise (or not at all); what our own table calls a group must not be split either.
    fold_of = dict(zip(table["id"], table["fold"], strict=True))
    own: dict[str, set[str]] = {}
    for sample in samples:
        if sample.id in fold_of:
            own.setdefault(sample.group or sample.id, set()).add(fold_of[sample.id])
    for group, found in own.items():
        if len(found) > 1 and folds_of_group.get(group, 1) == 1:
            rule = f"images of group {group} stand in folds {', '.join(sorted(found))}: it leaks"
            faults.append(Fault(group, str(path), rule, "give them one fold"))
    return faults
