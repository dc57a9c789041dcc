"""What can be drawn of each competition: the folder of `histofold demo` with its hidden truth, and images alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from histofold.competitions.base import Competition
from histofold.competitions.tables import header_shape_of, read_table
from histofold.core.faults import Fault, InputError
from histofold.core.rle.runs import Runs, parse_rle
from histofold.schema.sample import Sample
from histofold.synth.drawing.slide import SlideSpec, SyntheticSlide
from histofold.synth.drawing.tissue import draw_stain
from histofold.synth.hubmap_2022.folder import make_hubmap_2022
from histofold.synth.hubmap_2022.options import HPA, HUBMAP, SYNTH_ORGANS
from histofold.synth.kidney_2020.folder import make_kidney_2020

Truths = Mapping[str, Runs]


@dataclass(frozen=True, kw_only=True)
class DemoFolder:
    """How a competition's folder is made, and how the truth of its hidden test is read."""

    make: Callable[..., object]
    """Called with the folder, `seed` and `truth_path`, which lies outside the folder."""
    read_truth: Callable[[Path, list[Sample]], Truths]
    """Called with the truth and the samples of the test split."""


def rle_truth(column: str, path: Path, samples: list[Sample]) -> Truths:
    """The truth of test images from a column of run lengths; the sizes are the files' own."""
    texts = read_table(path, ("id", column)).set_index("id")[column]
    shapes = {sample.id: header_shape_of(sample.image_path) for sample in samples}
    return {key: parse_rle(texts[key], shape_hw) for key, shape_hw in shapes.items() if shape_hw is not None}


DEMO_FOLDERS = {
    "hubmap_2022": DemoFolder(make=make_hubmap_2022, read_truth=partial(rle_truth, "rle")),
    "kidney_2020": DemoFolder(
        make=partial(make_kidney_2020, num_train=10, num_test=3, max_side=1600),
        read_truth=partial(rle_truth, "encoding"),
    ),
}
"""By the competition's name; a competition whose folder can be drawn adds its entry."""


def demo_folder(name: str) -> DemoFolder:
    """The entry of a competition.

    Raises:
        InputError: If its folder cannot be drawn.
    """
    if name not in DEMO_FOLDERS:
        remedy = f"give a folder as --data, or one of {', '.join(DEMO_FOLDERS)}"
        raise InputError([Fault(name, "competition", "no synthetic folder of this competition", remedy)])
    return DEMO_FOLDERS[name]


def hidden_score(competition: Competition, root: Path, submission: Path, truth: Path) -> float:
    """The host's score of a submission on the hidden truth of a synthetic folder."""
    samples = competition.samples(root, "test")
    truths = demo_folder(competition.name).read_truth(truth, samples)
    id_column, row_column = competition.columns
    rows = read_table(submission, competition.columns).set_index(id_column)[row_column]
    predictions = {key: parse_rle(rows[key], runs.shape_hw) for key, runs in truths.items()}
    return competition.score(predictions, truths).mean


_LEAST_SHRINK, _REAL_SIDE_PX = 0.2, 3000


def hidden_looks(competition: str, organs: tuple[str, ...] = ()) -> list[tuple[str, str, str, float]]:
    """Organ, source, stain and pixel size in um of a competition's images, each organ from each source in turn.

    Raises:
        InputError: If an organ is not one of the competition's.
    """
    known = ("kidney",) if competition == "kidney_2020" else SYNTH_ORGANS
    unknown = [organ for organ in organs if organ not in known]
    if unknown:
        remedy = f"known ones: {', '.join(known)}"
        raise InputError([Fault(organ, "organs", f"no organ of {competition}", remedy) for organ in unknown])
    looks = []
    for source in (HUBMAP, HPA):
        for organ in organs or known:
            stain, pixel_size_um, _ = source.of_organ(organ)
            looks.append((organ, source.name, stain, pixel_size_um))
    return looks[:1] if competition == "kidney_2020" else looks


class HiddenSlides:
    """Draws the images of a set with the synthetic slides of the package; smaller images hold smaller objects."""

    def __init__(self, seed: int, largest: int) -> None:
        self._seed = seed
        self._shrink = min(max(largest / _REAL_SIDE_PX, _LEAST_SHRINK), 1.0)

    def __call__(self, number: int, look: tuple[str, str, str, float], shape_hw: tuple[int, int]) -> np.ndarray:
        """The image of a number as uint8 RGB (H, W, 3)."""
        key = (self._seed, number)
        organ, _, stain, pixel_size_um = look
        spec = SlideSpec(
            key=key,
            organ=organ,
            stain=draw_stain(np.random.default_rng(key), stain),
            shape_hw=shape_hw,
            pixel_size_um=pixel_size_um,
            shrink=self._shrink,
        )
        return SyntheticSlide(spec).whole().image_HWC
