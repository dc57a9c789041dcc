"""Folds over groups: nothing that belongs together stands on both sides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from histofold.competitions.ids import meet_ids
from histofold.competitions.tables import scan_table
from histofold.core.faults import Fault, InputError
from histofold.data.duplicates import cluster_pairs
from histofold.schema.dataset import COLUMN_RULE, LEAVE_ONE_OUT_RULES, TilesConfig
from histofold.schema.sample import Sample

FOLD_COLUMNS = ("id", "group", "stratum", "fold")
ALWAYS_TRAINED = -1  # the fold of images that every fold trains on and none is scored on
AREA_BINS = ("low", "middle", "high")
CANDIDATES = 64
SIZE_WEIGHT = 4.0  # of the hold-out's size against the spread of its strata: the size asked for comes first


def plan_folds(
    samples: Sequence[Sample],
    mask_fractions: Mapping[str, float],
    tiles: TilesConfig,
    *,
    clusters: Mapping[str, str] | None = None,
    root: Path | None = None,
) -> pd.DataFrame:
    """The folds that the settings ask for: `tiles.fold_by`, `tiles.folds`, `tiles.holdout` and `tiles.seed`.

    By `group`, by `image` (groups may then be split: `histofold.data.leaks` says so), one fold for each `source` or
    each `organ`, or by `column:NAME` of a table. All but `image` keep the groups whole: sources, organs or values that
    share a group share a fold. Samples that are not scored are always trained on, unless folds are by source or organ
    or no sample is scored; which of them a fold leaves out says `histofold.data.places`.

    Args:
        samples: All training samples.
        mask_fractions: Share of mask pixels by id.
        tiles: The settings.
        clusters: Cluster of near-duplicates by id; images of a cluster count as one group.
        root: The competition folder, where the column of `column:NAME` is looked for.

    Returns:
        Table of `FOLD_COLUMNS` in the order of the samples; with a hold-out, fold 0 and `ALWAYS_TRAINED`.

    Raises:
        InputError: If the groups cannot fill the folds, or the rule needs what the samples lack.
    """
    groups = merge_groups({sample.id: sample.group or sample.id for sample in samples}, clusters or {})
    units = _fold_units(samples, tiles.fold_by, groups, root)
    strata = stratum_names(samples, mask_fractions)
    places = _scored_places(samples, tiles.fold_by)
    own_units, own_strata = [units[place] for place in places], [strata[place] for place in places]
    try:
        if tiles.fold_by in LEAVE_ONE_OUT_RULES:
            assignment = _one_fold_each(own_units, tiles.fold_by)
        elif tiles.holdout:
            assignment = _hold_out(own_units, own_strata, tiles.holdout, tiles.seed)
        else:
            assignment = _balanced_folds(own_units, own_strata, tiles.folds, tiles.seed)
    except InputError as error:
        raise InputError([*error.faults, *_cluster_faults(samples, clusters or {})]) from None
    ids, folds = [sample.id for sample in samples], np.full(len(samples), ALWAYS_TRAINED)
    folds[places] = assignment
    # A fold leaves out what is of the group of a held-out image: of a column's folds that is all of one value.
    by_column = len(places) < len(samples) and tiles.fold_by.startswith(COLUMN_RULE)
    named = units if by_column else [groups[key] for key in ids]
    return pd.DataFrame({"id": ids, "group": named, "stratum": strata, "fold": folds})


def _scored_places(samples: Sequence[Sample], rule: str) -> list[int]:
    """Places of the samples that get a fold by a rule; the others are always trained on."""
    scored = [place for place, sample in enumerate(samples) if sample.is_scored or rule in LEAVE_ONE_OUT_RULES]
    return scored or list(range(len(samples)))


def merge_groups(groups: Mapping[str, str], clusters: Mapping[str, str]) -> dict[str, str]:
    """Groups that share a cluster become one, and so on until nothing is shared (union-find).

    Args:
        groups: Group by id.
        clusters: Cluster by id; ids without one, and ids that are in no group, change nothing.

    Returns:
        Group by id, in the order of `groups`; a merged one has the name of its first member.
    """
    first_of: dict[str, str] = {}
    pairs = [(first_of.setdefault(clusters[key], group), group) for key, group in groups.items() if key in clusters]
    joined = cluster_pairs(pairs)
    return {key: joined.get(group, group) for key, group in groups.items()}


def _cluster_faults(samples: Sequence[Sample], clusters: Mapping[str, str]) -> list[Fault]:
    """The near-duplicates that join groups, named beside a refusal for too few of them."""
    members: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.id in clusters:
            members.setdefault(clusters[sample.id], []).append(sample)
    remedy = "look at them side by side; where they are none, write folds.csv by hand and give it by --folds"
    return [
        Fault(cluster, "folds.csv", f"near-duplicates count as one group: {', '.join(s.id for s in found)}", remedy)
        for cluster, found in members.items()
        if len({sample.group or sample.id for sample in found}) > 1
    ]


def stratum_names(samples: Sequence[Sample], mask_fractions: Mapping[str, float]) -> list[str]:
    """Stratum of each sample: organ, source where there are several, and the tercile of the mask fraction in these."""
    several = len({sample.source for sample in samples}) > 1
    kinds = [f"{s.organ or 'any'}{'-' + (s.source or 'unknown') if several else ''}" for s in samples]
    table = pd.DataFrame({"kind": kinds, "fraction": [mask_fractions[s.id] for s in samples]})
    ranks = table.groupby("kind")["fraction"].rank(method="first", pct=True)
    bins = np.minimum((ranks.to_numpy() * len(AREA_BINS) - 1e-9).astype(int), len(AREA_BINS) - 1)
    return [f"{kind}-{AREA_BINS[b]}" for kind, b in zip(kinds, bins, strict=True)]


def _fold_units(samples: Sequence[Sample], rule: str, groups: Mapping[str, str], root: Path | None) -> list[str]:
    """What a rule keeps whole: one name for each sample.

    Raises:
        InputError: With every sample that lacks what the rule goes by.
    """
    if rule == "group":
        return [groups[sample.id] for sample in samples]
    if rule == "image":
        return [sample.id for sample in samples]
    if rule.startswith(COLUMN_RULE):
        values = _column_values(samples, rule.removeprefix(COLUMN_RULE), root)
    else:
        values = {sample.id: getattr(sample, rule) for sample in samples}
    remedy = "fill it in, or fold by another rule"
    faults = [Fault(key, "folds.csv", f"no {rule} to fold by", remedy) for key, value in values.items() if not value]
    if faults:
        raise InputError(faults)
    merged = merge_groups(values, groups)
    return [merged[sample.id] for sample in samples]


def _column_values(samples: Sequence[Sample], column: str, root: Path | None) -> dict[str, str]:
    """A column by id, from the first table of the folder that has it: train.csv, images.csv, then any other."""
    folder = root or Path()
    paths = sorted(folder.glob("*.csv"), key=lambda path: (path.name not in ("train.csv", "images.csv"), path.name))
    known: dict[str, None] = {}
    for path in paths:
        table = scan_table(path, (), ("id", column))[0]
        if {"id", column} <= set(table.columns):
            images = meet_ids(path, table["id"], [sample.id for sample in samples])[0]
            by_id = {images.get(key, key): value for key, value in zip(table["id"], table[column], strict=True)}
            return {sample.id: by_id.get(sample.id, "") for sample in samples}
        known.update(dict.fromkeys(table.columns))
    rule = f"no table here has the columns id and {column}"
    raise InputError([Fault(column, str(folder), rule, f"known columns: {', '.join(known) or 'none'}")])


def _one_fold_each(units: Sequence[str], rule: str) -> np.ndarray:
    """Leave one out: a fold for each unit, in the order of their names."""
    names, assignment = np.unique(units, return_inverse=True)
    if len(names) < 2:
        words = f"one {rule} alone, or groups that join all of them ({names[0]}): nothing would be left to train on"
        raise InputError([Fault("folds", "folds.csv", words, "fold by group instead")])
    return assignment


def check_fold_rule(samples: Sequence[Sample], tiles: TilesConfig, root: Path) -> None:
    """Refuse at once what `plan_folds` would refuse after every slide was looked at.

    Raises:
        InputError: If the rule needs what the samples lack, or there are fewer groups than folds.
    """
    units = _fold_units(samples, tiles.fold_by, {sample.id: sample.group or sample.id for sample in samples}, root)
    units = [units[place] for place in _scored_places(samples, tiles.fold_by)]
    if tiles.fold_by in LEAVE_ONE_OUT_RULES:
        _one_fold_each(units, tiles.fold_by)
    elif not tiles.holdout:
        _require_units(units, tiles.folds)


def _require_units(units: Sequence[str], folds: int) -> None:
    if len(set(units)) < folds:
        rule = f"{len(set(units))} groups cannot fill {folds} folds: a group is never split"
        raise InputError([Fault("folds", "folds.csv", rule, "lower the number of folds")])


def _balanced_folds(units: Sequence[str], strata: Sequence[str], folds: int, seed: int) -> np.ndarray:
    """Assign each sample to a fold so that units stay whole and strata are spread, int (N,).

    scikit-learn's StratifiedGroupKFold is greedy and its result depends on the shuffle (and on its version), so several
    shuffles are drawn and the best balanced one is taken. Folds are computed once and kept in folds.csv.
    """
    _require_units(units, folds)
    best: tuple[float, np.ndarray] | None = None
    for candidate in range(CANDIDATES):
        assignment = _one_split(strata, units, folds, seed * CANDIDATES + candidate)
        cost = imbalance(assignment, strata, folds)
        if len(set(assignment)) == folds and (best is None or cost < best[0]):
            best = cost, assignment
    if best is None:
        rule = f"every shuffle left one of {folds} folds empty: a few groups hold most images"
        raise InputError([Fault("folds", "folds.csv", rule, "lower the number of folds, or write folds.csv by hand")])
    return best[1]


def _one_split(strata: Sequence[str], groups: Sequence[str], folds: int, seed: int) -> np.ndarray:
    """One draw of StratifiedGroupKFold; strata too rare for it are pooled, for it warns of them."""
    from sklearn.model_selection import StratifiedGroupKFold  # it takes a second, and only drawing folds needs it

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


def _hold_out(units: Sequence[str], strata: Sequence[str], count: int, seed: int) -> np.ndarray:
    """Fold 0 for about `count` samples in whole units, their strata as in the whole; the others `ALWAYS_TRAINED`.

    From a random start the unit, or the pair of units, whose change of side helps most changes it, until none helps;
    of several starts the best result is kept.
    """
    names, unit_codes = np.unique(units, return_inverse=True)
    stratum_codes = np.unique(strata, return_inverse=True)[1]
    table_GK = np.zeros((len(names), stratum_codes.max() + 1))
    np.add.at(table_GK, (unit_codes, stratum_codes), 1)
    # The size is one more column, so that one squared distance weighs both.
    features_GC = np.hstack([table_GK, np.sqrt(SIZE_WEIGHT) * table_GK.sum(axis=1, keepdims=True)])
    wanted_C = features_GC.sum(axis=0) * count / len(units)
    best: tuple[float, np.ndarray] | None = None
    for candidate in range(CANDIDATES):
        start_G = np.random.default_rng((seed, candidate)).random(len(names)) < count / len(units)
        chosen_G, cost = _descend(features_GC, wanted_C, start_G)
        if best is None or cost < best[0]:
            best = cost, chosen_G
    assert best is not None
    held_out = best[1][unit_codes]
    if held_out.all() or not held_out.any():
        rule = f"{len(names)} groups of {len(units)} images cannot give a hold-out of {count}: a group is never split"
        raise InputError([Fault("folds", "folds.csv", rule, "change tiles.holdout, or write folds.csv by hand")])
    return np.where(held_out, 0, ALWAYS_TRAINED)


def _descend(features_GC: np.ndarray, wanted_C: np.ndarray, chosen_G: np.ndarray) -> tuple[np.ndarray, float]:
    """Flip one unit or two while the sum of the chosen comes nearer to what is wanted; gives chosen and distance."""
    gap_C = features_GC[chosen_G].sum(axis=0) - wanted_C
    while True:
        # Units alike, on the same side, are one kind: of each kind one is looked at.
        kinds_M = np.unique(np.column_stack([features_GC, chosen_G]), axis=0, return_index=True)[1]
        moves_MC = np.where(chosen_G[kinds_M], -1.0, 1.0)[:, None] * features_GC[kinds_M]
        change_M = (moves_MC**2).sum(axis=1) + 2 * moves_MC @ gap_C
        change_MM = change_M[:, None] + change_M + 2 * moves_MC @ moves_MC.T
        np.fill_diagonal(change_MM, change_M)
        pair = np.unravel_index(change_MM.argmin(), change_MM.shape)
        if change_MM[pair] > -1e-9:
            return chosen_G, float((gap_C**2).sum())
        for move in set(pair):
            gap_C = gap_C + moves_MC[move]
            chosen_G[kinds_M[move]] = not chosen_G[kinds_M[move]]
