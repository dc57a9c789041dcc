"""The peer of the comparisons: a plain segmentation-models-pytorch and albumentations script, as people write it.

U-Net on the shipped ImageNet weights of tf_efficientnet_lite0, AdamW with a cosine rate and 0.3 of it for the encoder,
BCE + Dice, bf16 where told, steps of 8 crops of 256 at 1.24 um; flips, quarter turns, affine moves with turns by up to
45 degrees, elastic bending and colour jitter, each step drawn by itself; the flips as views in prediction, threshold
0.5. It knows nothing of histofold but the folds and the file of the weights.

    python benchmarks/peer_smp.py --data DIR --folds folds.csv --fold 0 --out peer_fold0.csv
"""

from __future__ import annotations

import argparse
import os
import random
import time
from pathlib import Path

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import numpy as np
import pandas as pd
import segmentation_models_pytorch as smp
import tifffile
import torch
from albumentations.pytorch import ToTensorV2
from torch.utils.data import DataLoader, Dataset

PIXEL_UM, SIDE = 1.24, 256
BATCH, RATE, ENCODER_SHARE = 8, 1.5e-3, 0.3
MEAN_STD = (0.5, 0.5, 0.5)  # as the weights were trained


def decode(text: str, height: int, width: int) -> np.ndarray:
    mask = np.zeros(height * width, np.uint8)
    numbers = np.array(text.split(), int)
    for start, length in zip(numbers[::2] - 1, numbers[1::2], strict=True):
        mask[start : start + length] = 1
    return mask.reshape(width, height).T


def load(data: Path, row: dict) -> tuple[np.ndarray, np.ndarray]:
    image = tifffile.imread(data / "train_images" / f"{row['id']}.tiff")
    return image, decode(row["rle"], row["img_height"], row["img_width"])


def resize(image: np.ndarray, zoom: float, interpolation: int) -> np.ndarray:
    return cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=interpolation)


class Crops(Dataset):
    def __init__(self, images: list, masks: list, length: int, seed: int) -> None:
        self.images, self.masks, self.length, self.seed = images, masks, length, seed
        border = cv2.BORDER_REFLECT_101
        self.transform = A.Compose(
            [
                A.PadIfNeeded(SIDE, SIDE, border_mode=border),
                A.RandomCrop(SIDE, SIDE),
                A.HorizontalFlip(p=0.5),
                A.VerticalFlip(p=0.5),
                A.RandomRotate90(p=0.5),
                A.Affine(scale=(0.8, 1.2), rotate=(-45, 45), border_mode=border, p=0.5),
                A.ElasticTransform(alpha=120, sigma=6, border_mode=border, p=0.3),
                A.ColorJitter(0.3, 0.3, 0.3, 0.05, p=0.5),
                A.Normalize(MEAN_STD, MEAN_STD),
                ToTensorV2(),
            ]
        )

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        # set_random_seed would give all steps one seed, so that those of one probability are done all or none
        self.transform.set_random_state(np.random.default_rng([self.seed, i]), random.Random(f"{self.seed}/{i}"))
        place = i % len(self.images)
        result = self.transform(image=self.images[place], mask=self.masks[place])
        return result["image"], result["mask"][None].float()


def train(images: list, masks: list, weights: Path, steps: int, seed: int, bf16: bool) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = smp.Unet("tu-tf_efficientnet_lite0", encoder_weights=None, classes=1)
    tensors = list(torch.load(weights, weights_only=True).values())
    names = model.encoder.model.state_dict()  # the same order; smp leaves the classifier out, which stands last
    model.encoder.model.load_state_dict(dict(zip(names, tensors, strict=False)))
    model = model.to(memory_format=torch.channels_last)
    dice, bce = smp.losses.DiceLoss("binary"), torch.nn.BCEWithLogitsLoss()
    heads = [*model.decoder.parameters(), *model.segmentation_head.parameters()]
    encoder = {"params": model.encoder.parameters(), "lr": ENCODER_SHARE * RATE}
    optimizer = torch.optim.AdamW([encoder, {"params": heads}], lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    for images_NCHW, masks_N1HW in DataLoader(
        Crops(images, masks, steps * BATCH, seed), BATCH, shuffle=True, num_workers=1, generator=generator
    ):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(images_NCHW.contiguous(memory_format=torch.channels_last)).float()
        loss = bce(logits, masks_N1HW) + dice(logits, masks_N1HW)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def predict(model: torch.nn.Module, image: np.ndarray, zoom: float) -> np.ndarray:
    """Mask of a whole image at its own size: scaled, reflected to a multiple of 32, the mean of four flips."""
    small = resize(image, zoom, cv2.INTER_AREA)
    height, width = small.shape[:2]
    padded = cv2.copyMakeBorder(small, 0, -height % 32, 0, -width % 32, cv2.BORDER_REFLECT_101)
    normalised = (padded / 255 - MEAN_STD) / MEAN_STD
    inputs = torch.from_numpy(normalised.astype(np.float32)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        views = [model(inputs.flip(axes)).sigmoid().flip(axes) for axes in ((), (2,), (3,), (2, 3))]
    probs = torch.stack(views).mean(0)[0, 0, :height, :width].numpy()
    return cv2.resize(probs, image.shape[1::-1], interpolation=cv2.INTER_LINEAR) >= 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folds", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action="store_true", help="where the processor has units for it")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    rows = pd.read_csv(options.data / "train.csv").merge(pd.read_csv(options.folds)[["id", "group", "fold"]], on="id")
    loaded = {row["id"]: load(options.data, row) for row in rows.to_dict("records")}
    zooms = {row["id"]: row["pixel_size"] / PIXEL_UM for row in rows.to_dict("records")}
    trained = rows.loc[rows["fold"] != options.fold, "id"]
    images = [resize(loaded[key][0], zooms[key], cv2.INTER_AREA) for key in trained]
    masks = [resize(loaded[key][1], zooms[key], cv2.INTER_NEAREST) for key in trained]
    started = time.monotonic()
    model = train(images, masks, options.weights, options.steps, options.seed, options.bf16)
    spent = time.monotonic() - started
    held_out = rows[rows["fold"] == options.fold]
    scores = []
    for key in held_out["id"]:
        image, mask = loaded[key]
        predicted = predict(model, image, zooms[key])
        total = predicted.sum() + mask.sum()
        scores.append(2 * (predicted & (mask > 0)).sum() / total if total else 1.0)
    held_out[["id", "group", "fold"]].assign(dice=scores).to_csv(options.out, index=False)
    print(f"fold {options.fold}: Dice {np.mean(scores):.4f} after {options.steps} steps in {spent:.0f} s")


if __name__ == "__main__":
    main()
