"""Folds over groups: nothing that belongs together stands on both sides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from histoseg.competitions.base import read_table
from histoseg.core.faults import Fault, InputError
from histoseg.schema.sample import Sample

FOLD_COLUMNS = ("id", "group", "stratum", "fold")
AREA_BINS = ("low", "middle", "high")
CANDIDATES = 64


def stratum_names(samples: Sequence[Sample], mask_fractions: Mapping[str, float]) -> list[str]:
    """Stratum of each sample: its organ and the tercile of its mask fraction within that organ."""
    table = pd.DataFrame(
        {"organ": [s.organ or "any" for s in samples], "fraction": [mask_fractions[s.id] for s in samples]}
    )
    ranks = table.groupby("organ")["fraction"].rank(method="first", pct=True)
    bins = np.minimum((ranks.to_numpy() * len(AREA_BINS) - 1e-9).astype(int), len(AREA_BINS) - 1)
    return [f"{organ}-{AREA_BINS[b]}" for organ, b in zip(table["organ"], bins, strict=True)]


def make_folds(samples: Sequence[Sample], mask_fractions: Mapping[str, float], folds: int, seed: int) -> pd.DataFrame:
    """Assign each sample to a fold so that groups stay whole and strata are spread.

    scikit-learn's StratifiedGroupKFold is greedy and its result hangs on the shuffle (and on its version), so several
    shuffles are drawn and the best balanced one is taken. Folds are computed once and kept in folds.csv.

    Args:
        samples: All training samples; `group` is what must not be split.
        mask_fractions: Share of mask pixels by id.
        folds: Number of folds.
        seed: Seed of the shuffles.

    Returns:
        Table of `FOLD_COLUMNS` in the order of the samples.

    Raises:
        InputError: If there are fewer groups than folds.
    """
    groups = [sample.group or sample.id for sample in samples]
    if len(set(groups)) < folds:
        rule = f"{len(set(groups))} groups cannot fill {folds} folds: a group is never split"
        raise InputError([Fault("folds", "folds.csv", rule, "lower the number of folds")])
    strata = stratum_names(samples, mask_fractions)
    best: tuple[float, np.ndarray] | None = None
    for candidate in range(CANDIDATES):
        assignment = _one_split(strata, groups, folds, seed * CANDIDATES + candidate)
        cost = imbalance(assignment, strata, folds)
        if len(set(assignment)) == folds and (best is None or cost < best[0]):
            best = cost, assignment
    if best is None:
        rule = f"every shuffle left one of {folds} folds empty: a few groups hold most images"
        raise InputError([Fault("folds", "folds.csv", rule, "lower the number of folds, or write folds.csv by hand")])
    return pd.DataFrame({"id": [s.id for s in samples], "group": groups, "stratum": strata, "fold": best[1]})


def _one_split(strata: Sequence[str], groups: Sequence[str], folds: int, seed: int) -> np.ndarray:
    """One draw of StratifiedGroupKFold; strata too rare for it are pooled, for it warns of them."""
    counts = Counter(strata)
    pooled = [stratum if counts[stratum] >= folds else "rare" for stratum in strata]
    if Counter(pooled)["rare"] < folds:
        pooled = [stratum if stratum != "rare" else Counter(pooled).most_common(1)[0][0] for stratum in pooled]
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    assignment = np.full(len(strata), -1)
    for fold, (_, held_out) in enumerate(splitter.split(np.zeros(len(strata)), pooled, groups)):
        assignment[held_out] = fold
    return assignment


def imbalance(assignment: np.ndarray, strata: Sequence[str], folds: int) -> float:
    """How unequal folds are: squared deviations of fold sizes and of strata within folds, as shares of the ideal.

    Args:
        assignment: Fold of each sample, int (N,).
        strata: Stratum of each sample.
        folds: Number of folds.
    """
    codes = np.unique(strata, return_inverse=True)[1]
    table = np.zeros((codes.max() + 1, folds))
    np.add.at(table, (codes, assignment), 1)
    sizes, ideal = table.sum(axis=0), len(assignment) / folds
    spread = ((table - table.sum(axis=1, keepdims=True) / folds) ** 2).sum() / len(assignment)
    return float(((sizes / ideal - 1) ** 2).sum() + spread)


def read_folds(path: Path, samples: Sequence[Sample]) -> pd.DataFrame:
    """Read folds.csv and hold it against the samples.

    Returns:
        Table of `FOLD_COLUMNS`, fold as int, in the order of the samples.

    Raises:
        InputError: With every fault: samples without a fold, folds that are no numbers, groups that are split.
    """
    table = read_table(path, FOLD_COLUMNS)
    if not set(table["id"]) & {sample.id for sample in samples}:
        rule = f"none of the {len(samples)} images stands in this file"
        raise InputError([Fault("folds", str(path), rule, "it is of other data: leave it out, and folds are made")])
    faults = []
    bad = ~table["fold"].str.fullmatch(r"\d+")
    for key, value in table.loc[bad, ["id", "fold"]].itertuples(index=False):
        faults.append(Fault(key, str(path), f"fold {value!r} is not a number", "write 0, 1, 2, ..."))
    by_id = table.set_index("id")
    for sample in samples:
        if sample.id not in by_id.index:
            faults.append(Fault(sample.id, str(path), "image without a fold", "build the folds anew, or add the row"))
    folds_of_group = table.groupby("group")["fold"].nunique()
    for group in folds_of_group.index[folds_of_group > 1]:
        faults.append(Fault(group, str(path), "group stands in several folds: it leaks", "give it one fold"))
    # The file may name the groups otherwise (or not at all); what our own table calls a group must not be split either.
    own: dict[str, set[str]] = {}
    for sample in samples:
        if sample.id in by_id.index:
            own.setdefault(sample.group or sample.id, set()).add(by_id.at[sample.id, "fold"])
    for group, found in own.items():
        if len(found) > 1 and folds_of_group.get(group, 1) == 1:
            rule = f"images of group {group} stand in folds {', '.join(sorted(found))}: it leaks"
            faults.append(Fault(group, str(path), rule, "give them one fold"))
    if faults:
        raise InputError(faults)
    chosen = by_id.loc[[sample.id for sample in samples]].reset_index()
    return chosen[list(FOLD_COLUMNS)].astype({"fold": int})
