"""The packaged kernel with the versions of Kaggle's image, on every Python that is here, against the package itself.

    python benchmarks/kernel_versions.py [--pythons python3.12 ...] [--recipes unet_resnet34] [--keep DIR]

For each Python a virtual environment is made from benchmarks/kaggle_image.txt (3 GB to download, 7.5 GB on disk,
removed afterwards unless kept). The kernel runs in it alone: isolated, without network, smp from the wheel beside the
weights. Its rows are held against those that `histofold predict` writes here with the project's own versions. Bytes may
differ between versions of torch; the share of differing pixels must stay under 1e-4. Weights are random, so that many
probabilities lie at the threshold: trained ones differ in fewer pixels.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from kernel_recipes import package_recipe
from tqdm import tqdm

from histofold.core.rle.runs import decode_rle
from histofold.kaggle.bundle.kernels import write_kernel
from histofold.kaggle.simulate import alone as alone_module
from histofold.kaggle.simulate.run import no_network
from histofold.predict.submission.shards import predict_folder
from histofold.schema.manifest import load_manifest, manifest_json
from histofold.synth.hubmap_2022.folder import make_hubmap_2022

IMAGE = Path(__file__).with_name("kaggle_image.txt")
LARGEST_SHARE = 1e-4
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
TELL_VERSIONS = (
    "import platform, cv2, numba, numpy, pandas, tifffile, timm, torch, torchvision;"
    "print(platform.python_version(), torch.__version__, numpy.__version__, numba.__version__, cv2.__version__)"
)


def pythons_here() -> list[str]:
    """The interpreters from 3.11 on: of the path, and of pyenv, whose names on the path may answer nothing."""
    named = [found for minor in range(11, 20) if (found := shutil.which(f"python3.{minor}"))]
    pyenv = sorted((Path.home() / ".pyenv" / "versions").glob("3.*/bin/python"))
    by_version: dict[str, str] = {}
    for python in [*named, *map(str, pyenv)]:
        told = subprocess.run(
            [python, "-c", "import sys; print(*sys.version_info[:2], sep='.')"],
            capture_output=True,
            text=True,
            check=False,
        )
        version = told.stdout.strip()
        if told.returncode == 0 and tuple(map(int, version.split("."))) >= (3, 11):
            by_version.setdefault(version, python)
    return list(by_version.values())


def image_environment(python: str, folder: Path) -> Path:
    """The interpreter of a virtual environment with the image's packages; one that is complete is taken as it is."""
    inside = folder / "bin" / "python"
    complete = folder / "complete"
    if not complete.exists():
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
        pip = [str(inside), "-m", "pip", "install", "--quiet", "--no-cache-dir", "--requirement", str(IMAGE)]
        subprocess.run(pip, check=True)
        complete.touch()
    return inside


def mark_half(weights: Path, data: Path, scratch: Path) -> None:
    """Set the threshold of random weights so that about half of all pixels lie above it: there rounding shows."""
    manifest = load_manifest(weights)
    low, high = -10.0, 16.0  # logits
    for _ in range(7):
        logit = (low + high) / 2
        changed = dataclasses.replace(manifest, thresholds={"default": 1 / (1 + math.exp(-logit))})
        (weights / "manifest.json").write_text(manifest_json(changed))
        predict_folder(weights, data, scratch)
        marked = differing_share(scratch, scratch, data)[1]
        low, high = (logit, high) if marked > 0.5 else (low, logit)


def own_rows(weights: Path, data: Path, out: Path) -> None:
    """`histofold predict` with the project's versions."""
    command = [sys.executable, "-m", "histofold.commands.main", "predict"]
    arguments = ["--weights", str(weights), "--data", str(data), "--out", str(out)]
    subprocess.run([*command, *arguments], env={**os.environ, **ONE_THREAD}, check=True, capture_output=True)


def differing_share(ours: Path, theirs: Path, data: Path) -> tuple[float, float]:
    """Share of the pixels of all images that differ, and share of the mask among them."""
    sizes = pd.read_csv(data / "test.csv", dtype={"id": str}).set_index("id")
    csv.field_size_limit(1 << 30)
    tables = []
    for path in (ours, theirs):
        with path.open(newline="") as stream:
            tables.append(dict(list(csv.reader(stream))[1:]))
    if list(tables[0]) != list(tables[1]):
        raise SystemExit(f"{theirs}: other ids, or another order")
    differing = marked = total = 0
    for key in tables[0]:
        shape_hw = int(sizes.at[key, "img_height"]), int(sizes.at[key, "img_width"])
        first_HW, second_HW = (decode_rle(table[key], shape_hw) for table in tables)
        differing += int(np.count_nonzero(first_HW != second_HW))
        marked += int(np.count_nonzero(first_HW))
        total += first_HW.size
    return differing / total, marked / total


def held_against(inside: Path, kernel: Path, kaggle: Path, ours: Path, data: Path) -> tuple[str, bool]:
    """A line of the table, and whether it is good."""
    versions = subprocess.run([inside, "-c", TELL_VERSIONS], capture_output=True, text=True, check=True).stdout.split()
    shutil.rmtree(kaggle / "working", ignore_errors=True)
    (kaggle / "working").mkdir()
    done = subprocess.run(
        [*no_network(), str(inside), "-I", alone_module.__file__, str(kernel)],
        env={**os.environ, **ONE_THREAD, "HISTOFOLD_KAGGLE_ROOT": str(kaggle)},
        capture_output=True,
        text=True,
        check=False,
    )
    cells = " | ".join(versions)
    if done.returncode != 0:
        print(done.stderr, file=sys.stderr)
        return f"| {cells} | status {done.returncode} | | |", False
    theirs = kaggle / "working" / "submission.csv"
    share, marked = differing_share(ours, theirs, data)
    verdict = "same" if ours.read_bytes() == theirs.read_bytes() else "other"
    return f"| {cells} | {verdict} | {share:.1e} | {marked:.2f} |", share < LARGEST_SHARE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pythons", nargs="+", default=None, help="interpreters; all that are here")
    parser.add_argument("--recipes", nargs="+", default=["unet_resnet34", "group_effunet_b5"])
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--keep", type=Path, default=None, help="keep the environments in this folder, or take them")
    options = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        trees = [fake_kaggle(work / name, name, options.images) for name in options.recipes]
        kernel = write_kernel("hubmap_2022", work / "kernels", notebook=False, dataset="someone/weights")
        print("| recipe | Python | torch | numpy | numba | cv2 | bytes | differing pixels | mask |", flush=True)
        print("|---|---|---|---|---|---|---|---|---|", flush=True)
        for python in tqdm(options.pythons or pythons_here(), desc="pythons", unit="python"):
            environment = (options.keep or work) / f"python{Path(python).resolve().name.removeprefix('python')}"
            inside = image_environment(python, environment)
            for name, (kaggle, ours, data) in zip(options.recipes, trees, strict=True):
                line, is_good = held_against(inside, kernel, kaggle, ours, data)
                print(f"| {name} {line}", flush=True)
                good = good and is_good
            if options.keep is None:
                shutil.rmtree(environment)
    raise SystemExit(0 if good else 1)


def fake_kaggle(root: Path, recipe: str, images: int) -> tuple[Path, Path, Path]:
    """A fake /kaggle of synthetic images and random weights of a recipe, the package's own rows, and the data."""
    data = root / "kaggle" / "input" / "competitions" / "hubmap-organ-segmentation"
    data.parent.mkdir(parents=True)
    make_hubmap_2022(data, num_train=2, num_test=images, seed=1, max_side=600, truth_path=root / "truth.csv")
    weights = root / "kaggle" / "input" / "datasets" / "someone" / "weights"
    weights.parent.mkdir(parents=True)
    package_recipe(recipe, weights, whole=256)
    mark_half(weights, data, root / "scratch.csv")
    own_rows(weights, data, root / "ours.csv")
    return root / "kaggle", root / "ours.csv", data


if __name__ == "__main__":
    main()
