"""A tiny competition of objects: dark cells that touch, on a pale ground; its folder and its datasets."""

from dataclasses import replace

import cv2
import numpy as np

from histofold.competitions.base import Adapter, ObjectScore
from histofold.competitions.registry import ADAPTERS
from histofold.core.metrics import coco_ap
from histofold.core.objects.detections import Detections
from histofold.core.objects.instances import Objects
from histofold.core.rle.runs import runs_from_mask
from histofold.data.build import build_dataset
from histofold.schema.augment import AugmentConfig
from histofold.schema.dataset import DataConfig, TilesConfig
from histofold.schema.experiment import Experiment, ModelConfig, OptimConfig, PredictConfig, TrainConfig
from histofold.schema.network import DetectorConfig
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.sample import Sample
from histofold.train.fold import prepare_fold

SIDE = 64
UNSURE = 250
"""The label of what people were unsure of."""


class Cells(Adapter):
    """images/NAME.png and labels/NAME.png; names of two parts are the source and the image's own: `a-0`."""

    name = "cells"
    slug = ""
    task = "instances"
    metric = "AP50"
    classes = ("cell",)
    columns = ("id", "answer")

    def _inspect(self, root, split):
        paths = sorted((root / "images").iterdir())
        samples = [
            Sample(id=path.stem, image_path=path, pixel_size_um=1.0, source=path.stem.partition("-")[0])
            for path in paths
        ]
        self.labels = {path.stem: cv2.imread(str(root / "labels" / path.name), cv2.IMREAD_UNCHANGED) for path in paths}
        return samples, []

    def objects(self, sample):
        labels_HW = self.labels[sample.id]
        return Objects.from_labels(np.where(labels_HW == UNSURE, 0, labels_HW))

    def unsure(self, sample):
        return Objects.from_labels(np.where(self.labels[sample.id] == UNSURE, 1, 0))

    def target(self, sample):
        return runs_from_mask((self.labels[sample.id] > 0) & (self.labels[sample.id] != UNSURE))

    def ignored(self, sample):
        unsure_HW = self.labels[sample.id] == UNSURE
        return runs_from_mask(unsure_HW) if unsure_HW.any() else None

    def score_objects(self, predictions, samples):
        truths = {sample.id: self.objects(sample) for sample in samples}
        nothing = {key: Detections(truth.select([]), []) for key, truth in truths.items()}
        found = nothing | dict(predictions)
        by_id = {
            key: coco_ap([found[key]], [truth]) if len(truth) else float(not len(found[key]))
            for key, truth in truths.items()
        }
        return ObjectScore(coco_ap(list(found.values()), [truths[key] for key in found]), by_id, {})


def draw_cells(seed, shape_hw=(SIDE, SIDE)):
    """An image of cells, some of which touch, and their labels."""
    rng = np.random.default_rng(seed)
    labels_HW = np.zeros(shape_hw, np.uint8)
    for label, place in enumerate(np.ndindex(2, 3), start=1):
        y, x = (np.array(place) + 0.5) * (shape_hw[0] / 2, shape_hw[1] / 3) + rng.uniform(-2, 2, 2)
        axes = tuple(int(axis) for axis in rng.integers(8, 12, 2))
        cv2.ellipse(labels_HW, (int(x), int(y)), axes, float(rng.uniform(0, 180)), 0, 360, label, -1)
    image_HWC = np.where(labels_HW[..., None] > 0, (120, 60, 130), (235, 215, 230)) + rng.normal(0, 5, (*shape_hw, 3))
    return np.clip(image_HWC, 0, 255).astype(np.uint8), labels_HW


def cells_folder(root, names=("a-0", "a-1", "b-0", "b-1"), empty=()):
    """A folder of the competition; images of the names in `empty` have no cell."""
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for seed, name in enumerate(names):
        image_HWC, labels_HW = draw_cells(seed)
        if name in empty:
            image_HWC[:], labels_HW[:] = (230, 215, 235), 0
        cv2.imwrite(str(root / "images" / f"{name}.png"), image_HWC[..., ::-1])
        cv2.imwrite(str(root / "labels" / f"{name}.png"), labels_HW)
    return root


def use_cells(patch):
    """Have the competition known by its name."""
    patch.setitem(ADAPTERS, "cells", Cells)


EXPERIMENT = Experiment(
    preprocessing=Preprocessing(target_pixel_size_um=1.0),
    tiles=TilesConfig(size=SIDE, stride=SIDE, folds=2, min_tissue=0.0),
    augment=AugmentConfig(preset="none"),
    optim=OptimConfig(ema=0.5),
    train=TrainConfig(steps=4, batch=2, workers=0, validate_every=2, save_every=2),
    predict=PredictConfig(views=("identity",), tile=SIDE, halo=0),
)
DENSE = ModelConfig(encoder="tu-lcnet_035", decoder_channels=(16, 16, 8, 8, 8))
DETECTOR = ModelConfig(
    architecture="maskrcnn",
    encoder="tu-lcnet_035",
    detector=DetectorConfig(proposals_before_nms=20, proposals_after_nms=20, sampled_boxes=8, max_detections=10),
)


def built_cells(root, experiment=EXPERIMENT, **folder):
    """A dataset of cells; the competition must be known."""
    build_dataset(cells_folder(root / "raw", **folder), Cells(), experiment, root / "dataset", None, 1)
    return root / "dataset"


def cells_experiment(dataset, model=DENSE, **sections):
    """An experiment on it whose sections are changed as named: train={"steps": 3}."""
    changed = {name: replace(getattr(EXPERIMENT, name), **values) for name, values in sections.items()}
    return replace(EXPERIMENT, data=DataConfig(dataset=str(dataset)), model=model, **changed)


def cells_setup(dataset, runs, model=DENSE, *, limit=None, name="cells", **sections):
    """Its fold 0, ready to train."""
    return prepare_fold(cells_experiment(dataset, model, **sections), name, runs, 0, limit)
