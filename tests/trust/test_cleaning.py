"""Every combination of cleaning is scored as the masks that the kernel would write are, and chosen where it gains."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from histofold.competitions.base import class_dice
from histofold.core.rle.runs import join_classes, runs_from_mask
from histofold.core.rle.sets import without_runs
from histofold.predict.image import ImagePrediction
from histofold.schema.manifest import Manifest
from histofold.schema.preprocessing import Preprocessing
from histofold.trust.choices import ScoredCandidates
from histofold.trust.cleaning import CANDIDATES, Cleaning, all_cleanings, choose_cleaning, cleaned_dice

OWN = Cleaning(seed_threshold=0.6, max_hole_um2=0.0, min_area_um2=40.0)
GRID = (0.3, 0.5, 0.8)
SHAPE = (60, 83)


def scene(seed, classes, blank=False):
    """Probabilities with holes and crumbs, (K, H, W), and the truth of each class."""
    rng = np.random.default_rng(seed)
    fields = np.stack([gaussian_filter(rng.normal(size=SHAPE), 2.5) * 9 for _ in range(classes)])
    probs_KHW = 1 / (1 + np.exp(-2 * fields - rng.normal(size=fields.shape) / 3))
    truth = [gaussian_filter(each, 2) > 0.4 for each in fields]
    return (0.01 * probs_KHW if blank else probs_KHW), join_classes([runs_from_mask(each) for each in truth])


def predicted(probs_KHW, pixel_size_um):
    cuts = {*GRID, *CANDIDATES["seed_threshold"], OWN.seed_threshold} - {0.0}
    runs = {cut: join_classes([runs_from_mask(probs_HW >= cut) for probs_HW in probs_KHW]) for cut in cuts}
    peak_HW = np.zeros(SHAPE, bool)
    peak_HW[20:30, 40:60] = True
    return ImagePrediction(SHAPE, runs, runs_from_mask(peak_HW), pixel_size_um)


@pytest.mark.parametrize("classes", [1, 2])
@pytest.mark.parametrize("never_empty", [False, True])
@pytest.mark.parametrize("case", ["plain", "ignored", "no pixel size", "blank", "no truth"])
def test_scores_are_those_of_the_cleaned_masks(classes, never_empty, case):
    probs_KHW, truth = scene(hash((classes, case)) % 7, classes, blank=case == "blank")
    prediction = predicted(probs_KHW, None if case == "no pixel size" else 3.0)
    ignored = None
    if case == "ignored":
        ignored_HW = np.zeros(SHAPE, bool)
        ignored_HW[:, 30:50] = ignored_HW[0] = True
        ignored = runs_from_mask(ignored_HW)
    if case == "no truth":
        truth = join_classes([runs_from_mask(np.zeros(SHAPE, bool))] * classes)
    cleanings = all_cleanings(OWN)
    assert cleanings[0] == OWN
    assert len(set(cleanings)) == len(cleanings) == 4 * 3 * 6
    dice = cleaned_dice(prediction, truth, ignored, cleanings, GRID, never_empty)
    assert dice.shape == (len(cleanings), classes, len(GRID))
    manifest = Manifest(competition="folder", preprocessing=Preprocessing())
    for place, cleaning in enumerate(cleanings):
        seeds = prediction.runs[cleaning.seed_threshold] if cleaning.seed_threshold else None
        for column, threshold in enumerate(GRID):
            cleaned = replace(prediction, seeds=seeds).masks(
                threshold, replace(manifest, **vars(cleaning)), never_empty
            )
            expected = class_dice(without_runs(cleaned, ignored), truth)
            assert dice[place, :, column].tolist() == pytest.approx(expected, abs=1e-12)
    if case == "plain":
        assert len({tuple(each.ravel()) for each in dice}) > 8, "combinations differ"


def scored(gain, folds=5, each=8, noise=0.03, seed=0):
    """Scores under all cleanings, where filling holes up to 300 um2 gains so much of Dice."""
    rng = np.random.default_rng(seed)
    own = Cleaning(seed_threshold=0.0, max_hole_um2=0.0, min_area_um2=0.0)
    count = folds * each
    facts = pd.DataFrame({"fold": np.arange(count) % folds, "organ": "", "source": ""})
    facts["group"] = [f"patient {place // 2}" for place in range(count)]
    base = rng.uniform(0.6, 0.8, (count, 1)) - 0.1 * (np.array(GRID) - 0.5) ** 2
    tables = {}
    for cleaning in all_cleanings(own):
        own_noise = rng.normal(0, noise, (count, 1)) * (cleaning != own)
        dice = base + own_noise + gain * (cleaning.max_hole_um2 == 300)
        tables[cleaning] = pd.concat([facts, pd.DataFrame(dice, columns=list(GRID))], axis=1)
    return own, tables


def test_a_gain_is_taken_and_noise_is_refused_in_words():
    own, tables = scored(gain=0.05, noise=0.01)
    candidates = ScoredCandidates(tables, GRID)
    chosen, trials = choose_cleaning(candidates, own, candidates.folds)
    assert chosen == own.having("max_hole_um2", 300.0)
    words = [trial.words() for trial in trials]
    assert words[1].startswith("max_hole_um2 300 instead of 0: Dice ")
    assert words[1].endswith("on 40 slides: taken")
    assert "seed_threshold" in words[0]
    assert words[0].endswith("left at 0")
    own, tables = scored(gain=0.0)
    candidates = ScoredCandidates(tables, GRID)
    chosen, trials = choose_cleaning(candidates, own, candidates.folds)
    assert chosen == own
    refused = [trial for trial in trials if trial.best != trial.own]
    assert refused, "the best of several looks better than the own by luck"
    assert all(": not beyond chance: left at 0" in trial.words() for trial in refused)


def test_what_is_chosen_for_a_fold_does_not_depend_on_its_scores():
    own, tables = scored(gain=0.05, noise=0.01)
    inside = (tables[own]["fold"] == 3).to_numpy()
    changed = {cleaning: table.copy() for cleaning, table in tables.items()}
    for cleaning, table in changed.items():
        table.loc[inside, list(GRID)] = 0.9 * (cleaning.max_hole_um2 != 300)
    others = frozenset({0, 1, 2, 4})
    first, second = (ScoredCandidates(each, GRID) for each in (tables, changed))
    chosen = [choose_cleaning(each, own, others) for each in (first, second)]
    assert chosen[0] == chosen[1]
    assert first.thresholds(chosen[0][0], others) == second.thresholds(chosen[1][0], others)
    for each in (first, second):
        nested = each.nested_scores(lambda folds, each=each: choose_cleaning(each, own, folds)[0])
        assert nested[inside].tolist() == each.scores(chosen[0][0], others, frozenset({3})).tolist()
    assert chosen[0][0] == own.having("max_hole_um2", 300.0)
    assert choose_cleaning(second, own, second.folds)[0] == own, "on all folds it counts"


def test_a_single_other_fold_keeps_the_own_settings():
    own, tables = scored(gain=0.05, noise=0.01, folds=2)
    candidates = ScoredCandidates(tables, GRID)
    chosen, trials = choose_cleaning(candidates, own, frozenset({1}))
    assert chosen == own
    assert {trial.words().partition(": ")[2] for trial in trials} == {
        "one fold alone has no other to check a choice on: left at 0"
    }
    assert choose_cleaning(candidates, own, candidates.folds)[0].max_hole_um2 == 300
    assert choose_cleaning(candidates, own, frozenset()) == (own, [])
