"""What was made of a synthetic competition, and what the folder itself does not tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

Numbers = Mapping[str, int | float | str]


@dataclass(frozen=True, kw_only=True)
class PlantedFault:
    """One thing that was planted on purpose."""

    kind: str
    """As in `histofold.synth.hubmap_2022.options.TRAIN_FAULTS` or `HABITS`, or shifted_truth."""
    numbers: Numbers = field(default_factory=dict)
    """What was done: pixels, shifts (dy, dx), radii, cells of tables, names of other images."""


@dataclass(frozen=True, kw_only=True)
class ArtefactPlace:
    """A fold, bubble, blurred area or pen stroke of an image."""

    kind: str
    """Of `histofold.synth.drawing.slide.ARTEFACTS`."""
    box_yxyx: tuple[int, int, int, int]
    """First row and column, and the row and column after the last."""


def artefact_places(regions: Sequence[tuple[str, Sequence[int]]]) -> tuple[ArtefactPlace, ...]:
    """The artefacts of a slide from its kinds and boxes (y0, x0, y1, x1)."""
    return tuple(
        ArtefactPlace(kind=kind, box_yxyx=(int(y0), int(x0), int(y1), int(x1))) for kind, (y0, x0, y1, x1) in regions
    )


@dataclass(frozen=True, kw_only=True)
class SynthKey:
    """What was made, and what the folder itself does not tell."""

    root: Path
    """The competition's folder."""
    truth_path: Path
    """The csv of the test images' truth, outside the folder."""
    seed: int
    """What it was made from."""
    train_ids: tuple[str, ...]
    """Ids of train.csv in its order."""
    test_ids: tuple[str, ...]
    """Ids of the test images in their order."""
    donors: Mapping[str, str]
    """True donor of every id, test ids too; donors of the splits are distinct. Of a near-copy of another patient's
    image this is that patient, whatever its row says."""
    planted: Mapping[str, tuple[PlantedFault, ...]] = field(default_factory=dict)
    """Everything that was planted, by id; ids without any are left out."""
    clean_rles: Mapping[str, str] = field(default_factory=dict)
    """1-based column-major runs of masks without faults and habits: of every train image of hubmap_2022, and of the
    test slides of kidney_2020 whose truth was shifted."""
    artefacts: Mapping[str, tuple[ArtefactPlace, ...]] = field(default_factory=dict)
    """Where folds, bubbles, blurred areas and pen strokes lie, by id; ids without any are left out."""


def truth_path_of(root: Path, truth_path: Path | None) -> Path:
    """Where the hidden truth goes: as asked, or ROOT_truth.csv beside the folder.

    Raises:
        ValueError: If it would lie inside the folder.
    """
    truth_path = truth_path or root.with_name(f"{root.name}_truth.csv")
    if truth_path.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"truth_path {truth_path} lies inside {root}: name a file outside it, the truth is hidden")
    return truth_path


def random_stream(seed: int, *key: int) -> np.random.Generator:
    """The random stream of a purpose: the same whatever was drawn before."""
    return np.random.default_rng(np.random.SeedSequence([seed, *key]))
