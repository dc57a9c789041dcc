"""Held-out slides of made-up masks, scored: images and truth are drawn, and nothing is trained or predicted."""

from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd

from histofold.core.rle.runs import join_classes, runs_from_mask
from histofold.schema.manifest import Manifest
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.sample import Sample
from histofold.trust.audit import LeakCheck, RunAudit
from histofold.trust.cleaning import Cleaning, all_cleanings
from histofold.trust.evaluation import FinishedRun
from histofold.trust.masks import MaskEvaluation, evaluate_masks
from histofold.trust.oof import FoldRun, FoldScores, everything_dice, nothing_dice
from histofold.trust.scored import PROBABILITY_CUTS, scored_slide
from histofold.trust.thresholds import THRESHOLD_GRID

SHAPE_HW = (90, 120)
ORGANS = ("kidney", "lung", "spleen")
CLEAN = RunAudit(checks=[LeakCheck(question="images seen twice", compared=9, found=0)], notices=[], patients="")


def probabilities(rng, truth_HW, blur=9):
    """What a network might say of a truth: blurred, with a place where it is wrong, in [0, 1]."""
    noisy_HW = truth_HW.astype(np.float32)
    y, x = (int(rng.integers(0, side - 12)) for side in truth_HW.shape)
    noisy_HW[y : y + 12, x : x + 12] = rng.random() < 0.5
    return cv2.GaussianBlur(noisy_HW, (blur, blur), 0)


def discs(rng, shape_hw, count):
    """A mask of some round objects."""
    mask_HW = np.zeros(shape_hw, np.uint8)
    for _ in range(count):
        centre = int(rng.integers(10, shape_hw[1] - 10)), int(rng.integers(10, shape_hw[0] - 10))
        cv2.circle(mask_HW, centre, int(rng.integers(4, 14)), 1, -1)
    return mask_HW > 0


class MadeSlides:
    """Slides with their truth and what was found in them; what an evaluation asks of a finished run."""

    write, notes, missing = FinishedRun.write, (), ()
    audit = CLEAN

    def __init__(self, folder, ids, *, shape_hw=SHAPE_HW, classes=("mask",), folds=2, patients=None):
        self.run, self.sources, self.samples, self.probs, targets = folder, [], {}, {}, {}
        for number, key in enumerate(ids):
            rng = np.random.default_rng(number)
            path = folder / "images" / f"{number}.png"
            path.parent.mkdir(exist_ok=True, parents=True)
            small = rng.integers(120, 240, (shape_hw[0] // 6, shape_hw[1] // 6, 3), np.uint8)
            cv2.imwrite(str(path), cv2.resize(small, shape_hw[::-1], interpolation=cv2.INTER_CUBIC))
            truths = [discs(rng, shape_hw, int(rng.integers(0, 5))) for _ in classes]
            self.probs[key] = [probabilities(rng, truth_HW) for truth_HW in truths]
            targets[key] = join_classes([runs_from_mask(truth_HW) for truth_HW in truths])
            group = f"patient {number % patients}" if patients else key
            about = {"organ": ORGANS[number % len(ORGANS)], "source": ("HPA", "Hubmap")[number % 2], "group": group}
            self.samples[key] = Sample(id=key, image_path=path, **about)
        self.groups = {key: sample.group for key, sample in self.samples.items()}
        self.truth = SimpleNamespace(
            never_empty=False, target=lambda sample: targets[sample.id], ignored=lambda sample: None
        )
        self.folds = [self._fold(number, ids, folds, classes) for number in range(folds)]

    def _fold(self, number, ids, folds, classes):
        own = {"dice_by_id": dict.fromkeys(ids[number::folds], 0.5), "inputs": {}, "seconds": 3.0}
        record = SimpleNamespace(steps=6, best_step=6, best_dice_optimistic=0.5, dice=0.5, **own)
        spec = Preprocessing(target_pixel_size_um=1.0)
        manifest = Manifest(competition="folder", preprocessing=spec, classes=classes, tile=64, halo=8)
        return FoldRun(number, self.run / f"fold{number}", manifest, record)

    def facts(self):
        return {"missing_folds": []}

    def masks(self, key, cut):
        """The masks of a slide at a threshold, or at one for each class."""
        cuts = cut if isinstance(cut, tuple) else (cut,) * len(self.probs[key])
        return join_classes([runs_from_mask(prob >= at) for prob, at in zip(self.probs[key], cuts, strict=True)])

    def held_out(self, run, folds, sources):
        """Stands in for `score_folds`: whatever the cleaning is, it changes nothing."""
        cleanings = all_cleanings(Cleaning.of(folds[0].manifest))
        slides, facts, dice = {}, [], []
        for fold in folds:
            for key in fold.record.dice_by_id:
                sample, target = self.samples[key], self.truth.target(self.samples[key])
                masks = [[self.masks(key, cut) for cut in cuts] for cuts in (PROBABILITY_CUTS, THRESHOLD_GRID)]
                slides[key] = scored_slide(*masks, target, seconds=0.5)
                row = {"id": key, "fold": fold.fold, "organ": sample.organ, "source": sample.source}
                peers = {"everything": everything_dice(self.truth, sample), "nothing": nothing_dice(self.truth, sample)}
                facts.append({**row, "group": sample.group, **peers})
                dice.append([slides[key].scores] * len(cleanings))
        classes = folds[0].manifest.classes
        return FoldScores(pd.DataFrame(facts), cleanings, classes if len(classes) > 1 else (), np.array(dice), slides)


def made_masks(monkeypatch, folder, ids, **about) -> MaskEvaluation:
    """The evaluation of slides that were made up; what is predicted for their pictures is made up likewise."""
    made = MadeSlides(folder, ids, **about)
    monkeypatch.setattr("histofold.trust.masks.score_folds", made.held_out)
    monkeypatch.setattr("histofold.trust.masks.refuse_costly_skipping", lambda *_: None)
    monkeypatch.setattr(FoldRun, "ensemble", lambda fold: [])
    monkeypatch.setattr(FoldRun, "forward", lambda fold, truth, samples: None)
    monkeypatch.setattr(
        "histofold.report.mask_errors.predict_masks",
        lambda stages, sample, cuts, *_: [made.masks(sample.id, cut) for cut in cuts],
    )
    return evaluate_masks(made)
