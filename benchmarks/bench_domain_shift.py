"""What a change of stain costs a network, and what stain augmentation wins back; Otsu's threshold beside them.

Synthetic slides with haematoxylin and DAB train a U-Net on the shipped ImageNet encoder through the package's own
chain, once for each arm, with the same seed and steps. Hidden slides of other donors test it: the same stain, and the
same slides in H&E, PAS, at other pixel sizes (the last is that of HuBMAP's prostate, shrunk as the anatomy is) and
thicker. Only the named thing differs between two tests.

    python benchmarks/bench_domain_shift.py [--out bench_domain_shift] [--steps 1500] [--seeds 0] [--arms plain stain]

With --calibrate it also says how well the shift score of held-out H-DAB slides (`histofold evaluate --shift`) ranks the
recipes, all arms and seeds, by their Dice on the hidden H&E and PAS slides, and how well the plain score does:
Spearman's correlation, its interval by a bootstrap over recipes. Give it all arms.

What is in --out already is gone on with: an interrupted call is simply repeated.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from scipy.stats import spearmanr

from histofold.competitions.base import runs_dice
from histofold.competitions.registry import get_competition
from histofold.core.stain import DENSITY_OF_VALUE, HED_FROM_RUIFROK
from histofold.data.build import build_dataset
from histofold.imaging.slide import open_slide
from histofold.imaging.stain import fit_slide_reference
from histofold.predict.image import predict_masks
from histofold.schema.dataset import DataConfig, TilesConfig
from histofold.schema.experiment import AugmentConfig, Experiment, ModelConfig, OptimConfig, PredictConfig, TrainConfig
from histofold.schema.files import csv_text, write_atomically
from histofold.schema.network import SHIPPED_ENCODER
from histofold.schema.preprocessing import Preprocessing
from histofold.synth.drawing.slide import SlideSpec, SyntheticSlide
from histofold.synth.drawing.tissue import draw_stain
from histofold.train.loop import train_experiment
from histofold.trust.evaluate import evaluate_run
from histofold.trust.oof import finished_folds

ORGANS = ("kidney", "largeintestine", "lung", "spleen", "prostate")
IMAGES_OF_DONOR = 2
SHRINK = 1 / 3  # of the anatomy, so that an image of 1000 pixels shows as much as a real one of 3000
REFERENCES = 10  # training images that normalisation aims at
OVERHANG = 32  # of a stored tile over what the network sees of it
NO_COLOUR = {"colour": 0.0, "hed": 0.0}
ARMS: dict[str, dict[str, Any]] = {
    "plain": NO_COLOUR,
    "strong": {"preset": "strong", "stain_transfer": 0.4, "grey": 0.3},  # as experiments/hubmap_strong.toml
    "jitter": {},
    "stain": {"stain_transfer": 0.4, "grey": 0.3},
    "transfer": {"stain_transfer": 0.7},
    "template": {**NO_COLOUR, "stain_template": 0.7, "stain_template_spread": 3.0},
    "all": {"stain_transfer": 0.4, "stain_template": 0.3, "stain_template_spread": 3.0, "grey": 0.2},
    "macenko": NO_COLOUR,
    "reinhard": NO_COLOUR,
}

DRAWS = 2000  # of recipes, for an interval


@dataclass(frozen=True, kw_only=True)
class Slides:
    """One folder of synthetic slides."""

    split: int
    second: str = "dab"
    pixel_size_um: float = 0.4
    thickness_um: float = 4.0


TRAINING = Slides(split=0)
TESTS = {
    "H-DAB": Slides(split=1),
    "H&E": Slides(split=1, second="eosin"),
    "PAS": Slides(split=1, second="pas"),
    "H-DAB, 0.6 um": Slides(split=1, pixel_size_um=0.6),
    "H-DAB, 10 um thick": Slides(split=1, thickness_um=10.0),
    "H-DAB, 6.3 um of full size": Slides(split=1, pixel_size_um=6.3 * SHRINK),
}


def make_slides(root: Path, slides: Slides, count: int) -> None:
    """Write images/, masks/ and, last, images.csv; the same donors and anatomy for the same split."""
    if (root / "images.csv").is_file():
        return
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        donor, organ = number // IMAGES_OF_DONOR, ORGANS[number % len(ORGANS)]
        rng = np.random.default_rng([slides.split, number])
        sides_um = rng.uniform(280, 400, 2)
        height, width = (round(float(side_um) / slides.pixel_size_um) for side_um in sides_um)
        spec = SlideSpec(
            key=(slides.split, number),
            organ=organ,
            stain=draw_stain(np.random.default_rng([slides.split, donor]), slides.second),
            shape_hw=(height, width),
            pixel_size_um=slides.pixel_size_um,
            shrink=SHRINK,
            thickness_um=slides.thickness_um,
        )
        picture = SyntheticSlide(spec).whole()
        name = f"{organ}_{number:03d}"
        cv2.imwrite(str(root / "images" / f"{name}.png"), picture.image_HWC[..., ::-1])
        cv2.imwrite(str(root / "masks" / f"{name}.png"), picture.mask_HW.astype(np.uint8) * 255)
        rows.append([name, organ, slides.second, f"donor{slides.split}_{donor:02d}", str(slides.pixel_size_um)])
    write_atomically(root / "images.csv", csv_text(("id", "organ", "source", "patient", "pixel_size"), rows))


def otsu_channels(image_HWC: np.ndarray) -> dict[str, np.ndarray]:
    """What a threshold could be set on, as uint8 (H, W): both polarities, each sharp and blurred."""
    amounts_HWC = DENSITY_OF_VALUE[image_HWC] @ np.linalg.inv(HED_FROM_RUIFROK).astype(np.float32)
    planes = {
        "grey": cv2.cvtColor(image_HWC, cv2.COLOR_RGB2GRAY).astype(np.float32),
        "saturation": cv2.cvtColor(image_HWC, cv2.COLOR_RGB2HSV)[..., 1].astype(np.float32),
        "haematoxylin": amounts_HWC[..., 0],
        "eosin": amounts_HWC[..., 1],
        "dab": amounts_HWC[..., 2],
    }
    planes |= {f"{name}, blurred": cv2.GaussianBlur(plane_HW, (0, 0), 2) for name, plane_HW in planes.items()}
    scaled = {}
    for name, plane_HW in planes.items():
        low, high = np.percentile(plane_HW, [0.5, 99.5])
        scaled[name] = np.clip((plane_HW - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    return scaled


def otsu_scores(root: Path) -> dict[str, float]:
    """Dice of each organ by Otsu's threshold on the channel and polarity that serve that organ best."""
    competition = get_competition("folder")
    scores: dict[str, dict[str, list[float]]] = {}
    for sample in competition.samples(root, "train"):
        with open_slide(sample.image_path) as slide:
            image_HWC = slide.read(slice(None), slice(None))
        truth_HW = competition.target(sample).to_mask()
        for name, plane_HW in otsu_channels(image_HWC).items():
            bright_HW = cv2.threshold(plane_HW, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[1] > 0
            for polarity, mask_HW in (("bright", bright_HW), ("dark", ~bright_HW)):
                dice = 2 * int((mask_HW & truth_HW).sum()) / max(1, int(mask_HW.sum()) + int(truth_HW.sum()))
                scores.setdefault(sample.organ, {}).setdefault(f"{name}, {polarity}", []).append(dice)
    return {organ: max(float(np.mean(dice)) for dice in by_name.values()) for organ, by_name in scores.items()}


def make_experiment(arguments: argparse.Namespace, arm: str, seed: int) -> Experiment:
    """A small network for small machines, the same for every arm but for its colours."""
    preprocessing = Preprocessing(target_pixel_size_um=arguments.scale)
    if arm in ("macenko", "reinhard"):
        samples = get_competition("folder").samples(arguments.out / "train", "train")
        # Evenly chosen, so that all organs are among them.
        reference = fit_slide_reference(samples[:: max(1, len(samples) // REFERENCES)], preprocessing)
        preprocessing = replace(preprocessing, stain=arm, stain_reference=reference)
    steps, side = arguments.steps, arguments.crop + OVERHANG
    return Experiment(
        data=DataConfig(dataset=str(arguments.out / "dataset")),
        preprocessing=preprocessing,
        tiles=TilesConfig(size=side, stride=side // 2),
        augment=AugmentConfig(crop=arguments.crop, **ARMS[arm]),
        model=ModelConfig(
            encoder=arguments.encoder,
            encoder_weights=arguments.encoder_weights,
            decoder_channels=tuple(arguments.decoder),
        ),
        optim=OptimConfig(lr=arguments.lr, encoder_lr_factor=arguments.encoder_lr_factor, ema=0.98),
        train=TrainConfig(seed=seed, steps=steps, validate_every=steps, save_every=100, workers=1),
        predict=PredictConfig(tile=224, halo=32, views=("identity",)),
    )


def train_arm(arguments: argparse.Namespace, arm: str, seed: int) -> Path:
    """Train fold 0 of an arm; gives its run's folder."""
    experiment = make_experiment(arguments, arm, seed)
    if not (arguments.out / "dataset" / "dataset.json").is_file():
        root = arguments.out / "train"
        build_dataset(root, get_competition("folder"), experiment, arguments.out / "dataset", None, workers=1)
    name = f"{arm}_seed{seed}"
    list(train_experiment(experiment, name, arguments.out / "runs", fold=0, resume=True, limit=None))
    return arguments.out / "runs" / name


def test_run(run: Path, roots: dict[str, Path]) -> dict[str, dict[str, float]]:
    """Dice of each organ in each test, kept beside the run."""
    path = run / "tests.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    competition = get_competition("folder")
    fold = finished_folds(run)[0]
    for name, root in roots.items():
        if name in kept:
            continue
        ensemble = fold.ensemble()
        by_organ: dict[str, list[float]] = {}
        for sample in competition.samples(root, "train"):
            (runs,) = predict_masks(ensemble, sample, [0.5], competition.never_empty)
            by_organ.setdefault(sample.organ, []).append(runs_dice(runs, competition.target(sample)))
        kept[name] = {organ: float(np.mean(dice)) for organ, dice in by_organ.items()}
        write_atomically(path, json.dumps(kept, indent=2) + "\n")
    return kept


def table_row(label: str, test: str, by_organ: dict[str, float]) -> str:
    """One row of the markdown table."""
    mean = float(np.mean([by_organ[organ] for organ in ORGANS]))
    cells = [label, test, *(f"{by_organ[organ]:.3f}" for organ in ORGANS), f"**{mean:.3f}**"]
    return f"| {' | '.join(cells)} |"


def mean_scores(runs: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """The mean over seeds, for each test and organ."""
    return {test: {organ: float(np.mean([run[test][organ] for run in runs])) for organ in ORGANS} for test in runs[0]}


def print_summary(scores: dict[str, dict[str, dict[str, float]]]) -> None:
    """The fall of each arm, and the share of the plain arm's fall that it wins back."""
    means = {
        arm: {test: float(np.mean(list(by_organ.values()))) for test, by_organ in tests.items()}
        for arm, tests in scores.items()
    }
    for test in list(TESTS)[1:]:
        for arm, by_test in means.items():
            text = f"{arm}: H-DAB {by_test['H-DAB']:.3f}, {test} {by_test[test]:.3f}"
            text += f", fall {by_test['H-DAB'] - by_test[test]:.3f}"
            plain = means.get("plain", by_test)
            fall = plain["H-DAB"] - plain[test]
            if arm != "plain" and "plain" in means and fall > 0.02:
                text += f", wins back {(by_test[test] - plain[test]) / fall:.0%} of plain's fall"
            print(text)


def print_calibration(runs: list[Path]) -> None:
    """Both scores of each recipe on held-out H-DAB slides, at 0.5, and how they rank what hidden slides say."""
    rows = []
    for run in runs:
        summary = evaluate_run(run, shift="score").summary
        tests = json.loads((run / "tests.json").read_text(encoding="utf-8"))
        hidden = float(np.mean([list(tests[name].values()) for name in ("H&E", "PAS")]))
        rows.append((summary["dice"], summary["shift"]["dice"], hidden))
    print("\n| recipe | out-of-fold | shift score | hidden H&E and PAS |\n|---|---|---|---|")
    for run, row in zip(runs, rows, strict=True):
        print(f"| {run.name} | {' | '.join(f'{value:.3f}' for value in row)} |")
    scores_N3 = np.array(rows)
    picks = np.random.default_rng(0).integers(len(rows), size=(DRAWS, len(rows)))
    picks = [pick for pick in picks if np.ptp(scores_N3[pick], axis=0).all()]  # equal scores have no ranks
    for name, column in (("out-of-fold", 0), ("shift score", 1)):
        drawn = [spearmanr(scores_N3[pick, column], scores_N3[pick, 2]).statistic for pick in picks]
        low, high = np.percentile(drawn, [2.5, 97.5])
        rho = spearmanr(scores_N3[:, column], scores_N3[:, 2]).statistic
        print(f"{name}: rank correlation {rho:.2f} (95% {low:.2f} to {high:.2f} over {len(rows)} recipes)")


def check_settings(arguments: argparse.Namespace) -> None:
    """Refuse a folder of other slides or another training."""
    not_settings = ("out", "seeds", "arms", "calibrate", "threads")
    settings = {name: value for name, value in vars(arguments).items() if name not in not_settings}
    path = arguments.out / "settings.json"
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != settings:
        raise SystemExit(f"{path} tells of other settings than {settings}: give another --out")
    write_atomically(path, json.dumps(settings, indent=2) + "\n")


def main() -> None:
    """Make slides, train the arms, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench_domain_shift"), help="where to work")
    parser.add_argument("--train", type=int, default=80, help="training slides")
    parser.add_argument("--test", type=int, default=20, help="slides of each test")
    parser.add_argument("--steps", type=int, default=1500, help="optimisation steps of each arm and seed")
    parser.add_argument("--scale", type=float, default=2.0, help="pixel size of the network in um")
    parser.add_argument("--crop", type=int, default=128, help="pixels a side that the network sees in training")
    parser.add_argument("--encoder", default=SHIPPED_ENCODER)
    parser.add_argument("--encoder-weights", default="shipped")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--encoder-lr-factor", type=float, default=0.3)
    parser.add_argument("--decoder", type=int, nargs=5, default=[96, 64, 32, 16, 16], help="channels of the decoder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=["plain", "stain"])
    parser.add_argument("--calibrate", action="store_true", help="hold the shift score against the hidden slides")
    parser.add_argument("--threads", type=int, default=0, help="of the network; 0: as many as there are")
    arguments = parser.parse_args()
    if arguments.calibrate and len(arguments.arms) * len(arguments.seeds) < 3:
        parser.error("--calibrate ranks three recipes or more: give other --arms or --seeds")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    check_settings(arguments)
    make_slides(arguments.out / "train", TRAINING, arguments.train)
    roots = {name: arguments.out / f"test_{place}" for place, name in enumerate(TESTS)}
    for name, root in roots.items():
        make_slides(root, TESTS[name], arguments.test)
    scores = {}
    for arm in arguments.arms:
        runs = [test_run(train_arm(arguments, arm, seed), roots) for seed in arguments.seeds]
        scores[arm] = mean_scores(runs)
    print(f"\n| method | test | {' | '.join(ORGANS)} | mean |\n|{'---|' * (3 + len(ORGANS))}")
    for test in ("H-DAB", "H&E"):
        print(table_row("Otsu, best channel", test, otsu_scores(roots[test])))
    for arm, tests in scores.items():
        for test, by_organ in tests.items():
            print(table_row(arm, test, by_organ))
    print()
    print_summary(scores)
    if arguments.calibrate:
        names = [f"{arm}_seed{seed}" for arm in arguments.arms for seed in arguments.seeds]
        print_calibration([arguments.out / "runs" / name for name in names])


if __name__ == "__main__":
    main()
