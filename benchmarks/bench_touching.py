"""Glands that touch, as single objects: a network's boundary and distance against plain components of its own mask.

    python benchmarks/bench_touching.py --data ../shared/data/glas_hubmap_layout --out bench_touching --steps 300

The data is a folder in the layout of hubmap_2022; its truth has no objects, so that the pieces of each mask are taken
for them (glands that touch in the truth are one). One dense network a fold of patients gives three maps of each
held-out slide; they are cut once into the components of the mask and once by the watershed, whose marker each fold
takes from the best object F1 of the others. Of both, objects of less than MIN_AREA_UM2 are dropped and holes filled.
Differences are paired, with an interval over patients.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import tifffile
from scipy import ndimage

from histofold.competitions.registry import get_competition
from histofold.core.metrics.glas import glas_object_scores
from histofold.core.objects.watershed import watershed_labels
from histofold.data.build import build_dataset
from histofold.imaging.slide import open_sample
from histofold.predict.objects.image import predict_objects
from histofold.schema.augment import AugmentConfig
from histofold.schema.dataset import DataConfig, TilesConfig
from histofold.schema.experiment import Experiment, TrainConfig
from histofold.schema.network import SHIPPED_ENCODER, ModelConfig
from histofold.schema.optim import OptimConfig
from histofold.schema.preprocessing import Preprocessing
from histofold.train.loop import train_experiment
from histofold.trust.intervals import paired_difference
from histofold.trust.oof import finished_folds

PIXEL_UM, CROP, FOLDS = 1.86, 192, 3
PLAIN, MARKERS = 2.0, (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
"""No distance reaches the marker of PLAIN: what is left are the components."""
MIN_AREA_UM2 = 400.0
NEVER = 10**6


def object_folder(data: Path, out: Path) -> None:
    """The slides as a plain folder of objects: links to the images, and a label image of each mask's pieces."""
    competition = get_competition("hubmap_2022")
    samples, _ = competition.inspect(data, "train")
    for name in ("images", "masks"):
        (out / name).mkdir(parents=True, exist_ok=True)
    rows = []
    for sample in samples:
        image = out / "images" / sample.image_path.name
        if not image.exists():
            image.symlink_to(sample.image_path.resolve())
        labels_HW, _ = ndimage.label(competition.target(sample).to_mask(), np.ones((3, 3)))
        tifffile.imwrite(out / "masks" / f"{sample.id}.tiff", labels_HW.astype(np.uint16), compression="zlib")
        rows.append({"id": sample.id, "patient": sample.group, "pixel_size": sample.pixel_size_um})
    pd.DataFrame(rows).to_csv(out / "images.csv", index=False)
    (out / "folder.toml").write_text('task = "instances"\n')


def experiment_of(dataset: Path, steps: int) -> Experiment:
    """One dense network of objects, by the defaults but for what the slides' size asks for."""
    return Experiment(
        data=DataConfig(dataset=str(dataset)),
        preprocessing=Preprocessing(target_pixel_size_um=PIXEL_UM),
        tiles=TilesConfig(size=256, stride=128, folds=FOLDS),
        augment=AugmentConfig(crop=CROP),
        model=ModelConfig(encoder=SHIPPED_ENCODER, encoder_weights="shipped"),
        optim=OptimConfig(lr=1.5e-3, encoder_lr_factor=0.3),
        train=TrainConfig(steps=steps, workers=1, validate_every=NEVER),
    )


class WholeMaps:
    """Gathers the bands of an image's maps."""

    def __init__(self, shape_hw: tuple[int, int]) -> None:
        self.maps_3HW = np.zeros((3, *shape_hw), np.float32)

    def add(self, y: int, probs_KHW: np.ndarray) -> None:
        """Copy a band to its rows."""
        self.maps_3HW[:, y : y + probs_KHW.shape[1]] = probs_KHW


def cleaned(labels_HW: np.ndarray, min_area_px: float) -> np.ndarray:
    """Labels without small objects, and without holes in those that are kept."""
    kept_HW = np.zeros_like(labels_HW)
    for label, place in enumerate(ndimage.find_objects(labels_HW), 1):
        object_HW = ndimage.binary_fill_holes(labels_HW[place] == label)
        if object_HW.sum() >= min_area_px:
            kept_HW[place][object_HW & (kept_HW[place] == 0)] = label
    return kept_HW


def slide_scores(maps_3HW: np.ndarray, true_HW: np.ndarray, pixel_um: float) -> dict[float, tuple[float, float]]:
    """Object F1 and object Dice of a slide at every marker."""
    scores = {}
    for marker in (PLAIN, *MARKERS):
        labels_HW = watershed_labels(*maps_3HW, threshold=0.5, marker=marker)
        scores[marker] = glas_object_scores(cleaned(labels_HW, MIN_AREA_UM2 / pixel_um**2), true_HW)[:2]
    return scores


def draw(path: Path, image_HWC: np.ndarray, parts: Mapping[str, np.ndarray]) -> None:
    """Outlines of objects on their slide, one panel after the other."""
    panels = []
    for words, labels_HW in parts.items():
        panel_HWC = image_HWC.copy()
        for label in np.unique(labels_HW[labels_HW > 0]):
            contours, _ = cv2.findContours(
                (labels_HW == label).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
            )
            colour = tuple(int(part) for part in np.random.default_rng(label).integers(60, 256, 3))
            cv2.drawContours(panel_HWC, contours, -1, colour, 4)
        panels.append(cv2.putText(panel_HWC, words, (8, 28), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (0, 0, 0), 2))
    cv2.imwrite(str(path), np.hstack(panels)[..., ::-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("bench_touching"))
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    folder, dataset, run = options.out / "folder", options.out / "dataset", options.out / "runs" / "touching"
    competition, experiment = get_competition("folder"), experiment_of(dataset, options.steps)
    if not (dataset / "index.csv").is_file():
        object_folder(options.data, folder)
        build_dataset(folder, competition, experiment, dataset, None, 1)
    for fold in range(FOLDS):
        list(train_experiment(experiment, "touching", run.parent, fold, True, None))
    samples = {sample.id: sample for sample in competition.inspect(folder, "train")[0]}
    groups = pd.read_csv(dataset / "folds.csv", dtype={"id": str, "group": str}).set_index("id")["group"]
    rows = []
    for fold in finished_folds(run):
        stages = fold.ensemble()
        for place, key in enumerate(fold.record.dice_by_id):
            sample = samples[key]
            with open_sample(sample) as slide:
                gathered = WholeMaps(slide.shape_hw)
                predict_objects(stages, slide, sample.pixel_size_um, sink=gathered)
                image_HWC = slide.read_all()
            true_HW, pixel_um = tifffile.imread(folder / "masks" / f"{key}.tiff"), float(sample.pixel_size_um or 1)
            for marker, (f1, dice) in slide_scores(gathered.maps_3HW, true_HW, pixel_um).items():
                rows.append({"id": key, "fold": fold.fold, "marker": marker, "f1": f1, "dice": dice})
            if place < 4:
                cut = [
                    cleaned(watershed_labels(*gathered.maps_3HW, threshold=0.5, marker=m), 100) for m in (PLAIN, 0.2)
                ]
                parts = {"truth": true_HW, "components": cut[0], "watershed": cut[1]}
                draw(options.out / f"fold{fold.fold}_{key}.jpg", image_HWC, parts)
    report(pd.DataFrame(rows), groups)


def report(table: pd.DataFrame, groups: pd.Series) -> None:
    """Print the scores of components, of each marker, and of the marker that the other folds took."""
    print(table.groupby("marker")[["f1", "dice"]].mean().round(4).to_string())
    nested = []
    for fold, own in table.groupby("fold"):
        others = table[(table["fold"] != fold) & (table["marker"] != PLAIN)]
        marker = others.groupby("marker")["f1"].mean().idxmax()
        nested.append(own[own["marker"] == marker])
        print(f"fold {fold}: the others take marker {marker}")
    chosen, plain = pd.concat(nested).set_index("id"), table[table["marker"] == PLAIN].set_index("id")
    for name in ("f1", "dice"):
        pairs = plain[name].tolist(), chosen.loc[plain.index, name].tolist()
        difference = paired_difference(*pairs, groups.loc[plain.index].tolist())
        print(f"object {name}: components {np.mean(pairs[0]):.4f}, watershed {np.mean(pairs[1]):.4f}; {difference}")


if __name__ == "__main__":
    main()
