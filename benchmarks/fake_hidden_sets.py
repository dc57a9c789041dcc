"""Random fake hidden sets with random faults through the kernel: missing ids, illegal rows and crashes must be 0.

    python benchmarks/fake_hidden_sets.py --count 200 [--alone 10] [--seed 0]
    python benchmarks/fake_hidden_sets.py --clock 60 --work 300

The first form makes sets of small images (16 to 200 pixels) of both competitions in turn, each with its own count and
share of faults, and runs the kernel's code in this process; `--alone` of them run the bundled file instead, in a
process of its own without network. The second form gives the kernel a clock that is too short: a network that sleeps
makes work of so many seconds, one giant image alone more than the clock allows.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import save_file

from histofold.competitions.registry import get_competition
from histofold.kaggle.bundle.kernels import write_kernel
from histofold.kaggle.simulate.plan import IMAGE_FAULTS, SET_FAULTS, plan_hidden
from histofold.kaggle.simulate.run import HostLimits, watch_kernel
from histofold.kaggle.simulate.simulate import fallback_rows
from histofold.kaggle.wheel import build_wheel
from histofold.models.build import build_model
from histofold.schema.manifest import Manifest, Member, file_sha256, manifest_json
from histofold.schema.preprocessing import Preprocessing
from histofold.synth.competitions import hidden_looks

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from fake_sets import SET_LIMIT_S, SetOutcome, draw_options, kernel_in_process, run_fake_set
from slow_network import run_slowly

COMPETITIONS = ("hubmap_2022", "kidney_2020")
ARGUMENTS = {"encoder": "resnet18", "decoder_channels": [16, 16, 8, 8, 8], "classes": 1}


def make_weights(folder: Path, name: str) -> Path:
    """A package of one small random network."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    path = folder / "small.safetensors"
    save_file(build_model("unet", ARGUMENTS).state_dict(), path)
    member = Member(file=path.name, sha256=file_sha256(path), architecture="unet", arguments=ARGUMENTS)
    manifest = Manifest(
        competition=name,
        classes=get_competition(name).classes,
        preprocessing=Preprocessing(target_pixel_size_um=1.6, whole_size=128),
        members=(member,),
        tile=64,
        halo=8,
        views=("identity", "hflip"),
    )
    (folder / "manifest.json").write_text(manifest_json(manifest))
    build_wheel("segmentation-models-pytorch", folder)
    return folder


def kernel_alone(kernel: Path, competition, planned):
    """Runs the bundled file in a process of its own."""

    def run(tree):
        watched = watch_kernel(kernel, tree, HostLimits(seconds=SET_LIMIT_S))
        if watched.status:
            raise RuntimeError(f"status {watched.status}\n{watched.output[-3000:]}")
        return fallback_rows(watched.output, competition, planned, tree.working / "submission.csv")

    return run


def run_sets(count: int, alone: int, seed: int, root: Path) -> list[SetOutcome]:
    """Run the sets, the first `alone` of them through the bundled file; prints each that is not good."""
    weights = {name: make_weights(root / "weights" / name, name) for name in COMPETITIONS}
    kernels = {name: write_kernel(name, root / "kernels", False, "owner/weights") for name in COMPETITIONS if alone}
    outcomes = []
    for number in range(count):
        name = COMPETITIONS[number % len(COMPETITIONS)]
        competition, looks, options = get_competition(name), hidden_looks(name), draw_options(seed + number)
        run = kernel_in_process(competition)
        if number < alone:
            run = kernel_alone(kernels[name], competition, plan_hidden(options, looks))
        outcome = run_fake_set(root / "kaggle", competition, weights[name], options, looks, run)
        outcomes.append(outcome)
        if not outcome.good:
            print(f"set {seed + number} of {name}: {outcome}")
    return outcomes


def tell(outcomes: list[SetOutcome], alone: int, seconds: float) -> None:
    images = [image for outcome in outcomes for image in outcome.hidden.images]
    kinds = Counter(image.fault for image in images if image.fault)
    tables = Counter(fault for outcome in outcomes for fault in outcome.hidden.faults)
    print(f"{len(outcomes)} sets ({alone} through the bundled file alone), {len(images)} images, {seconds:.0f} s")
    for name, value in (
        ("missing ids", sum(len(outcome.missing_ids) for outcome in outcomes)),
        ("illegal rows", sum(len(outcome.faults) for outcome in outcomes)),
        ("crashes", sum(bool(outcome.crash) for outcome in outcomes)),
        ("readable images with a fallback row", sum(len(outcome.lost) for outcome in outcomes)),
        ("unreadable images without one", sum(len(outcome.guessed) for outcome in outcomes)),
    ):
        print(f"  {name:<38}{value:>6}")
    print("planted in images: " + ", ".join(f"{kind} {kinds[kind]}" for kind in IMAGE_FAULTS))
    print("planted in sets: " + ", ".join(f"{kind} {tables[kind]}" for kind in SET_FAULTS))


def tell_clock(clock_s: float, work_s: float) -> int:
    """Run work that the clock does not allow and tell what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        slow = run_slowly(Path(folder), clock_s, work_s)
    print(
        f"clock {clock_s:.0f} s, work {slow.work_s:.0f} s (one image alone {slow.giant_s:.0f} s): {slow.seconds:.1f} s"
    )
    outcomes = Counter(image.outcome for image in slow.summary.images)
    print("  " + ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()))
    for image in slow.summary.images:
        print(f"  {image.id} {image.shape_hw} {image.seconds:6.2f} s {image.passes} {image.outcome} {image.reason}")
    for words in (*slow.summary.steps, *slow.faults):
        print(f"  {words}")
    return 0 if slow.seconds <= clock_s and not slow.faults else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--alone", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clock", type=float, help="seconds that are allowed")
    parser.add_argument("--work", type=float, default=300.0, help="seconds of work that are asked for then")
    options = parser.parse_args()
    logging.getLogger("histofold").setLevel(logging.CRITICAL)
    started = time.monotonic()
    if options.clock is not None:
        return tell_clock(options.clock, options.work)
    with tempfile.TemporaryDirectory() as folder:
        outcomes = run_sets(options.count, options.alone, options.seed, Path(folder))
    tell(outcomes, options.alone, time.monotonic() - started)
    return 0 if all(outcome.good for outcome in outcomes) else 1


if __name__ == "__main__":
    raise SystemExit(main())
