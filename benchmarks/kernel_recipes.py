"""Every recipe of experiments/ as a package with random weights: does the kernel alone give the package's bytes?

    python benchmarks/kernel_recipes.py [--recipes unet_resnet34 group_effunet_b5] [--images 2] [--whole 256]

A fake hidden set of small images is predicted by `histofold predict` and by the generated kernel, which runs as a
process of its own with nothing but what Kaggle's image has. Networks, views, tiles and preprocessing are the recipe's;
pretrained encoders are left out (no hub is asked) and the sides of whole images are lowered, which changes no code that
runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

import numpy as np
import tifffile
import torch
from safetensors.torch import save_file
from tqdm import tqdm

from histofold.kaggle.bundle.kernels import write_kernel
from histofold.kaggle.simulate import alone as alone_module
from histofold.kaggle.weights_folder import write_package
from histofold.models.build import build_model
from histofold.predict.submission.shards import predict_folder
from histofold.schema.experiment import Experiment
from histofold.schema.manifest import Member, file_sha256
from histofold.schema.parse import load_toml

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
COLUMNS = "id,organ,data_source,img_height,img_width,pixel_size,tissue_thickness"


def recipes() -> list[str]:
    """The experiments among the files (sweeps and ensembles are none)."""
    names = []
    for path in sorted(EXPERIMENTS.glob("*.toml")):
        if "model" in tomllib.loads(path.read_text(encoding="utf-8")):
            names.append(path.stem)
    return names


def hidden_set(root: Path, images: int) -> None:
    """A competition folder of small images, H != W, with the columns of the real one."""
    (root / "test_images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows, ids = [], []
    for number in range(images):
        shape = int(rng.integers(200, 420)), int(rng.integers(200, 420))
        coarse_HWC = rng.integers(60, 255, (shape[0] // 12 + 1, shape[1] // 12 + 1, 3), np.uint8)
        image_HWC = np.kron(coarse_HWC, np.ones((12, 12, 1), np.uint8))[: shape[0], : shape[1]]
        key = str(10_000 + number)
        tifffile.imwrite(root / "test_images" / f"{key}.tiff", image_HWC)
        rows.append(f"{key},kidney,Hubmap,{shape[0]},{shape[1]},0.5,4")
        ids.append(key)
    (root / "test.csv").write_text("\n".join([COLUMNS, *rows]) + "\n")
    (root / "sample_submission.csv").write_text("\n".join(["id,rle", *(f"{key}," for key in ids)]) + "\n")


def package_recipe(name: str, out: Path, whole: int) -> int:
    """Random weights of a recipe as a package; gives the number of parameters."""
    experiment = load_toml(Experiment, EXPERIMENTS / f"{name}.toml")
    preprocessing = dataclasses.replace(experiment.preprocessing, whole_size=whole)
    if preprocessing.stain != "none":
        raise SystemExit(f"{name}: its stain reference comes from a dataset, which this script does not build")
    manifest = experiment.manifest(preprocessing, "hubmap_2022", ("ftu",))
    arguments = experiment.model.arguments()
    torch.manual_seed(0)
    model = build_model(experiment.model.architecture, arguments)
    weights = out.with_suffix(".safetensors")
    save_file(model.state_dict(), weights)
    member = Member(
        file=f"{name}.safetensors",
        sha256=file_sha256(weights),
        architecture=experiment.model.architecture,
        arguments=arguments,
    )
    write_package(dataclasses.replace(manifest, members=(member,)), {member.file: weights}, out, "", "other")
    weights.unlink()
    return sum(parameter.numel() for parameter in model.parameters())


def same_bytes(name: str, work: Path, images: int, whole: int) -> str:
    """A line of the table."""
    kaggle = work / name
    data = kaggle / "input" / "competitions" / "hubmap-organ-segmentation"
    hidden_set(data, images)
    weights = kaggle / "input" / "datasets" / "someone" / "weights"
    weights.parent.mkdir(parents=True)
    parameters = package_recipe(name, weights, whole)
    (kaggle / "working").mkdir()
    predict_folder(weights, data, work / f"{name}.csv")
    kernel = write_kernel("hubmap_2022", work / "kernels", notebook=False, dataset="someone/weights")
    started = time.monotonic()
    subprocess.run(
        [sys.executable, "-I", alone_module.__file__, str(kernel)],
        env={**os.environ, "HISTOFOLD_KAGGLE_ROOT": str(kaggle)},
        check=True,
        capture_output=True,
    )
    seconds = time.monotonic() - started
    ours, alone = (path.read_bytes() for path in (work / f"{name}.csv", kaggle / "working" / "submission.csv"))
    verdict = "same bytes" if ours == alone else "DIFFERENT"
    return f"| {name} | {parameters / 1e6:.1f} M | {verdict} | {len(alone.splitlines()) - 1} | {seconds:.0f} s |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", nargs="+", default=recipes(), choices=recipes())
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--whole", type=int, default=256, help="side of whole images, a multiple of 32")
    options = parser.parse_args()
    print("| recipe | parameters | kernel alone and package | rows | kernel |\n|---|---|---|---|---|")
    different = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in tqdm(options.recipes, desc="recipes", unit="recipe"):
            line = same_bytes(name, Path(folder), options.images, options.whole)
            different += "DIFFERENT" in line
            print(line, flush=True)
    raise SystemExit(1 if different else 0)


if __name__ == "__main__":
    main()
