"""Many small fake hidden sets through the kernel's code: what was lost, what was illegal, what crashed."""

from __future__ import annotations

import csv
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from histofold.competitions.base import Competition, KernelCompetition
from histofold.core.faults import Fault
from histofold.kaggle.simulate.files import FakeKaggle, image_folder, write_hidden
from histofold.kaggle.simulate.plan import HiddenOptions, HiddenSet, Look, plan_hidden
from histofold.kaggle.simulate.simulate import submission_faults

RunOnce = Callable[[FakeKaggle], dict[str, str]]
"""Runs the kernel; gives the images with fallback rows, and why."""
SET_LIMIT_S = 3600.0
"""Time limit of a small set in seconds: so much that no row is made with less than everything."""


@dataclass(frozen=True, kw_only=True)
class SetOutcome:
    """What became of one set."""

    hidden: HiddenSet
    """What it was."""
    missing_ids: tuple[str, ...]
    """Ids of sample_submission.csv without a row."""
    faults: tuple[Fault, ...]
    """Those of the submission, a missing id among them."""
    crash: str
    """The traceback of what the kernel raised, empty for nothing."""
    lost: dict[str, str]
    """Images that can be read and have fallback rows, and why."""
    guessed: tuple[str, ...]
    """Images that nobody can read and that have none."""

    @property
    def good(self) -> bool:
        """Whether every row is there, legal, and made by the network wherever it could."""
        return not (self.missing_ids or self.faults or self.crash or self.lost or self.guessed)


def draw_options(seed: int, most_images: int = 8, largest: int = 200) -> HiddenOptions:
    """A set of random count and faults, the same for the same seed; an empty one now and then."""
    rng = np.random.default_rng([seed, 1])
    images, faults = int(rng.integers(0, most_images + 1)), float(rng.random())
    return HiddenOptions(images=images, smallest=16, largest=largest, faults=faults, seed=seed)


def draw_cheaply(number: int, look: Look, shape_hw: tuple[int, int]) -> np.ndarray:
    """Something pink with dark blobs that costs nothing, uint8 RGB (H, W, 3); the same for every look."""
    height, width = shape_hw
    rng = np.random.default_rng(number % 50)
    blobs_HW1 = rng.random((height // 16 + 1, width // 16 + 1, 1)).repeat(16, axis=0).repeat(16, axis=1)
    tissue_HWC = np.array([230, 180, 205]) - blobs_HW1[:height, :width] ** 2 * np.array([120, 130, 70])
    drawn_HWC: np.ndarray = (tissue_HWC + rng.normal(0, 4, (height, width, 3))).astype(np.uint8)
    return drawn_HWC


def run_fake_set(
    root: Path,
    competition: Competition,
    weights: Path,
    options: HiddenOptions,
    looks: Sequence[tuple[str, str, str, float]],
    run: RunOnce,
) -> SetOutcome:
    """Make one set, run the kernel on it and look at every row.

    Args:
        root: Where the tree goes; made anew.
        competition: The adapter.
        weights: Folder of weights.
        options: What the set is asked to be.
        looks: Where its images come from.
        run: Runs the kernel.
    """
    hidden = plan_hidden(options, looks)
    tree = FakeKaggle.create(root, competition, weights)
    for _ in write_hidden(tree, competition, hidden, draw_cheaply):
        pass
    crash, failed = "", {}
    try:
        failed = run(tree)
    except Exception:  # whatever it is, it is what is looked for
        crash = traceback.format_exc()
    ids = [image.id for image in hidden.images]
    rows = _row_ids(tree.answer)
    planted = hidden.unreadable()
    return SetOutcome(
        hidden=hidden,
        missing_ids=tuple(key for key in ids if key not in rows),
        faults=tuple(submission_faults(tree, competition)),
        crash=crash,
        lost={key: why for key, why in failed.items() if key not in planted},
        guessed=tuple(key for key in planted if key not in failed and not crash),
    )


def kernel_in_process(competition: KernelCompetition, limit_s: float = SET_LIMIT_S) -> RunOnce:
    """The kernel's own code, called in this process."""
    from histofold.kernels.entry import run_kernel
    from histofold.predict.objects.rows import ObjectRows

    makers = (ObjectRows,) if competition.task == "instances" else ()

    def run(tree: FakeKaggle) -> dict[str, str]:
        folder = image_folder(competition.name)
        return dict(run_kernel(competition, folder, tree.root / "input", tree.working, limit_s, *makers).failed)

    return run


def _row_ids(path: Path) -> set[str]:
    if not path.is_file():
        return set()
    with path.open(newline="", encoding="utf-8") as stream:
        return {row[0] for row in csv.reader(stream) if row}
