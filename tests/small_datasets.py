"""Plain folders of a few small pictures, and the datasets built from them."""

import cv2
import numpy as np
import pandas as pd

from histofold.competitions.registry import get_competition
from histofold.data.build import build_dataset
from histofold.schema.dataset import TilesConfig
from histofold.schema.experiment import Experiment, ModelConfig, PredictConfig
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.run_record import RunRecord, write_record

SMALL_UNET = {"encoder": "tu-lcnet_035", "decoder_channels": (16, 16, 8, 8, 8)}
"""A whole U-Net in a fiftieth of the weights of one with a ResNet-18, in a quarter of its time."""
BASE = Experiment(
    preprocessing=Preprocessing(scale_mode="whole", whole_size=64),
    tiles=TilesConfig(folds=2),
    model=ModelConfig(**SMALL_UNET),
    predict=PredictConfig(views=("identity",)),
)


def draw(seed, shape_hw=(52, 64)):
    """A picture of fine structure of its own, and a mask of it."""
    rng = np.random.default_rng(seed)
    small = rng.integers(60, 230, (26, 32, 3), dtype=np.uint8)
    image = cv2.resize(small, shape_hw[::-1], interpolation=cv2.INTER_CUBIC)
    return image, image[:, :, 0] > 150


def make_folder(root, pictures, group=lambda name: name):
    """A plain folder of the pictures (name to image and mask)."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for name, (image, mask) in pictures.items():
        cv2.imwrite(str(root / "images" / f"{name}.png"), image)
        cv2.imwrite(str(root / "masks" / f"{name}.png"), mask.astype(np.uint8) * 255)
    rows = pd.DataFrame({"id": list(pictures), "group": [group(name) for name in pictures]})
    rows.to_csv(root / "images.csv", index=False)
    return root


def build(root, out, experiment=BASE):
    build_dataset(root, get_competition("folder"), experiment, out, None, 1)
    return out


def small_record(folder, fold, **changes):
    """Write the record of a finished fold of `BASE` with some fields changed, as runs/E/fold{k}/run.json."""
    record = {
        "digest": "d",
        "limit": None,
        "competition": "folder",
        "steps": 6,
        "seconds": 1.0,
        "dice": 0.5,
        "best_dice_optimistic": 0.5,
        "best_step": 6,
        "dice_by_id": {},
        "trained_on": {},
        "manifest": BASE.manifest(BASE.preprocessing, "folder", ("ftu",)),
        "architecture": BASE.model.architecture,
        "arguments": BASE.model.arguments(),
    }
    write_record(folder, RunRecord(fold=fold, **{**record, **changes}))
