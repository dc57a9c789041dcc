"""A tiny competition of objects: dark cells that touch, on a pale ground; its folder and its datasets."""

from dataclasses import replace
from functools import partial

import cv2
import numpy as np

from histofold.competitions.objects import ObjectAdapter, pooled_scores
from histofold.competitions.registry import ADAPTERS
from histofold.core.metrics import coco_ap
from histofold.core.metrics.ranked import ApRule
from histofold.core.objects.instances import Objects
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


class Cells(ObjectAdapter):
    """images/NAME.png and, but for the test split, labels/NAME.png; names begin with the source: `a-0`."""

    name = "cells"
    slug = ""
    metric = "AP50"
    classes = ("cell",)
    columns = ("id", "answer")
    ap_rule = ApRule(host="coco", iou=0.5, max_detections=100)

    def _inspect(self, root, split):
        paths = sorted((root / "images").iterdir())
        self._use_truth(partial(self._read_labels, root))
        return [
            Sample(id=path.stem, image_path=path, pixel_size_um=1.0, source=path.stem.partition("-")[0])
            for path in paths
        ], []

    def _read_labels(self, root, sample):
        labels_HW = cv2.imread(str(root / "labels" / f"{sample.id}.png"), cv2.IMREAD_UNCHANGED)
        sure_HW = np.where(labels_HW == UNSURE, 0, labels_HW)
        return Objects.from_labels(sure_HW), Objects.from_labels((labels_HW == UNSURE).astype(int))

    def score_objects(self, predictions, samples):
        return pooled_scores(self, predictions, samples, {"AP50": coco_ap})


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


def cells_folder(root, names=("a-0", "a-1", "b-0", "b-1"), empty=(), seed=0):
    """A folder of the competition; images of the names in `empty` have no cell."""
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for number, name in enumerate(names, start=seed):
        image_HWC, labels_HW = draw_cells(number)
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
