"""The peer of the model benchmark: a plain segmentation-models-pytorch and albumentations script, as people write it.

Half-scale 256 pixel crops, batches of 8, U-Net with a ResNet-34 from random weights, AdamW with a one-cycle rate, BCE +
Dice, flips, turns and colour jitter; no averaging of weights, no views. It knows nothing of histofold but the folds.

    python benchmarks/peer_smp.py --data DIR --folds folds.csv --fold 0 --seconds 600 --out peer_fold0.csv
"""

from __future__ import annotations

import argparse
import os
import random
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import tifffile
import torch
from torch.utils.data import DataLoader, Dataset

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
SIDE, BATCH, RATE = 256, 8, 1e-3
CALIBRATION_STEPS = 5


def decode(text: str, height: int, width: int) -> np.ndarray:
    mask = np.zeros(height * width, np.uint8)
    numbers = np.array(text.split(), int)
    for start, length in zip(numbers[::2] - 1, numbers[1::2], strict=True):
        mask[start : start + length] = 1
    return mask.reshape(width, height).T


def load(data: Path, row: dict) -> tuple[np.ndarray, np.ndarray]:
    image = tifffile.imread(data / "train_images" / f"{row['id']}.tiff")
    return image, decode(row["rle"], row["img_height"], row["img_width"])


def half(image: np.ndarray, interpolation: int) -> np.ndarray:
    return cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=interpolation)


class Crops(Dataset):
    def __init__(self, images: list, masks: list, length: int) -> None:
        import albumentations as A
        from albumentations.pytorch import ToTensorV2

        self.images, self.masks, self.length = images, masks, length
        self.transform = A.Compose(
            [
                A.PadIfNeeded(SIDE, SIDE, border_mode=cv2.BORDER_REFLECT_101),
                A.RandomCrop(SIDE, SIDE),
                A.HorizontalFlip(p=0.5),
                A.VerticalFlip(p=0.5),
                A.RandomRotate90(p=0.5),
                A.Affine(scale=(0.8, 1.2), rotate=(-20, 20), border_mode=cv2.BORDER_REFLECT_101, p=0.5),
                A.ColorJitter(0.2, 0.2, 0.2, 0.05, p=0.5),
                A.Normalize(),
                ToTensorV2(),
            ]
        )

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.transform.set_random_seed(i)
        place = i % len(self.images)
        result = self.transform(image=self.images[place], mask=self.masks[place])
        return result["image"], result["mask"][None].float()


def train(images: list, masks: list, seconds: float, seed: int) -> tuple[torch.nn.Module, int]:
    """Train for about so many seconds: a few steps are timed first, so that the rate's cycle has a length."""
    import segmentation_models_pytorch as smp

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    model = smp.Unet("resnet34", encoder_weights=None, classes=1)
    dice, bce = smp.losses.DiceLoss("binary"), torch.nn.BCEWithLogitsLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)

    def step(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        optimizer.zero_grad()
        logits = model(batch[0])
        (bce(logits, batch[1]) + dice(logits, batch[1])).backward()
        optimizer.step()

    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(Crops(images, masks, 10**6), BATCH, shuffle=True, num_workers=2, generator=generator)
    batches = iter(loader)
    step(next(batches))
    started = time.monotonic()
    for _ in range(CALIBRATION_STEPS):
        step(next(batches))
    each = (time.monotonic() - started) / CALIBRATION_STEPS
    steps = max(20, round(seconds / each) - CALIBRATION_STEPS - 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(steps):
        step(next(batches))
        schedule.step()
    return model.eval(), steps + CALIBRATION_STEPS + 1


def predict(model: torch.nn.Module, image: np.ndarray) -> np.ndarray:
    """Mask of a whole image at its own size: half scale, reflected to a multiple of 32, threshold 0.5."""
    small = half(image, cv2.INTER_AREA)
    height, width = small.shape[:2]
    padded = cv2.copyMakeBorder(small, 0, -height % 32, 0, -width % 32, cv2.BORDER_REFLECT_101)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    inputs = torch.from_numpy(((padded / 255 - mean) / std).astype(np.float32)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        probs = model(inputs).sigmoid()[0, 0].numpy()[:height, :width]
    return cv2.resize(probs, image.shape[1::-1], interpolation=cv2.INTER_LINEAR) >= 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folds", type=Path, required=True)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows = pd.read_csv(options.data / "train.csv").merge(pd.read_csv(options.folds)[["id", "group", "fold"]], on="id")
    loaded = {row["id"]: load(options.data, row) for row in rows.to_dict("records")}
    trained = rows.loc[rows["fold"] != options.fold, "id"]
    images = [half(loaded[key][0], cv2.INTER_AREA) for key in trained]
    masks = [half(loaded[key][1], cv2.INTER_NEAREST) for key in trained]
    started = time.monotonic()
    model, steps = train(images, masks, options.seconds, options.seed)
    spent = time.monotonic() - started
    held_out = rows[rows["fold"] == options.fold]
    scores = []
    for key in held_out["id"]:
        image, mask = loaded[key]
        predicted = predict(model, image)
        total = predicted.sum() + mask.sum()
        scores.append(2 * (predicted & (mask > 0)).sum() / total if total else 1.0)
    table = held_out[["id", "group", "fold"]].assign(dice=scores)
    table.to_csv(options.out, index=False)
    print(f"fold {options.fold}: Dice {np.mean(scores):.4f} after {steps} steps in {spent:.0f} s")


if __name__ == "__main__":
    main()
