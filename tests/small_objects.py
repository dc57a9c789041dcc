"""Held-out images of made-up objects, and what was found of them: nothing is read or predicted."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np

from histofold.core.metrics.ranked import ApRule
from histofold.core.objects.detections import Detections
from histofold.core.objects.instances import Objects
from histofold.schema.sample import Sample
from histofold.trust.audit import RunAudit
from histofold.trust.evaluation import FinishedRun
from histofold.trust.objects.evaluate import evaluate_objects
from histofold.trust.objects.found import FoundImage

SHAPE_HW = (96, 128)


def disc(centre_yx, radius, shape_hw=SHAPE_HW):
    """A round mask."""
    y, x = np.ogrid[: shape_hw[0], : shape_hw[1]]
    return (y - centre_yx[0]) ** 2 + (x - centre_yx[1]) ** 2 <= radius**2


def drawn_objects(rng, count=8, shape_hw=SHAPE_HW):
    """Centres and radii of round objects that do not touch, one a cell of a grid."""
    cells = rng.permutation(12)[:count]
    return [((16 + 32 * (cell // 4), 16 + 32 * (cell % 4)), int(rng.integers(6, 11))) for cell in cells]


def found_image(number, *, shrunk=0, unsure=0, stray=2, group=None, folds=2):
    """An image of which a network finds all objects, shrunk by some pixels, and some that are not there.

    Scores of what is there are 0.3 to 1, of the others 0.1 to 0.5.
    """
    rng = np.random.default_rng(number)
    drawn = drawn_objects(rng)
    true = [disc(*each) for each in drawn]
    found = [disc(centre, max(2, radius - shrunk)) for centre, radius in drawn]
    wrong = [disc((rng.integers(5, 90), rng.integers(5, 120)), 3) for _ in range(stray)]
    scores = np.concatenate([rng.uniform(0.3, 1, len(found)), rng.uniform(0.1, 0.5, stray)])
    sample = Sample(id=f"i{number}", image_path=Path(f"i{number}.png"), source=f"dataset_{1 + number % 2}")
    return FoundImage(
        sample=sample,
        fold=number % folds,
        group=group or f"g{number}",
        raw=Detections(Objects.from_masks([*found, *wrong], SHAPE_HW), scores),
        truth=Objects.from_masks(true[unsure:], SHAPE_HW),
        unsure=Objects.from_masks(true[:unsure], SHAPE_HW),
    )


class MadeRun:
    """What `evaluate_objects` asks of a run: nothing of it was trained."""

    write = FinishedRun.write

    def __init__(self, folder, images, own=None, rule=None, metric="AP"):
        self.run, self.images, self.missing, self.notes = folder, images, [], []
        self.audit = RunAudit(checks=[], notices=[], patients="")
        self.truth, self.samples, self.groups, self.sources = None, {}, {}, []
        self.object_competition = SimpleNamespace(
            metric=metric, ap_rule=rule or ApRule(host="openimages", iou=0.6), classes=("vessel",)
        )
        record = SimpleNamespace(
            steps=9, seconds=4.5, dice_by_id={}, inputs={}, best_step=9, best_dice_optimistic=0.5, dice=0.5
        )
        manifest = SimpleNamespace(objects=own)
        numbers = sorted({image.fold for image in images})
        self.folds = [
            SimpleNamespace(fold=fold, folder=folder / f"fold{fold}", manifest=manifest, record=record)
            for fold in numbers
        ]

    def facts(self):
        return {"missing_folds": []}


def made_evaluation(monkeypatch, folder, images, **about):
    """The evaluation of held-out images that were made up; their pictures are written too."""
    monkeypatch.setattr("histofold.trust.objects.evaluate.find_held_out", lambda run, folds, sources: images)
    drawn = []
    for image in images:
        path = folder / image.sample.image_path.name
        pixels = np.random.default_rng(0).integers(100, 220, (*SHAPE_HW, 3), np.uint8)
        cv2.imwrite(str(path), pixels)
        drawn.append(replace(image, sample=replace(image.sample, image_path=path)))
    images[:] = drawn
    return evaluate_objects(MadeRun(folder, images, **about))
