"""What can be drawn of each competition: the folder of `histofold demo` with its hidden truth, and images alone."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np

from histofold.competitions.base import Competition, ObjectCompetition
from histofold.competitions.registry import get_competition
from histofold.competitions.sennet_2024 import EMPTY_ROW
from histofold.competitions.tables import header_shape_of, read_table
from histofold.core.faults import Fault, InputError
from histofold.core.objects.coco import runs_from_counts
from histofold.core.objects.detections import Detections
from histofold.core.objects.instances import Objects
from histofold.core.rle.runs import parse_rle
from histofold.synth.drawing.slide import SlideSpec, SyntheticSlide
from histofold.synth.drawing.tissue import draw_stain
from histofold.synth.hubmap_2022.folder import make_hubmap_2022
from histofold.synth.hubmap_2022.options import HPA, HUBMAP, SYNTH_ORGANS
from histofold.synth.kidney_2020.folder import make_kidney_2020
from histofold.synth.sennet_2024.folder import make_sennet_2024
from histofold.synth.vasculature_2023.folder import make_vasculature_2023
from histofold.synth.vrdl_nuclei.folder import make_vrdl_nuclei
from histofold.synth.vrdl_nuclei.scene import TISSUES, NucleiSpec, draw_nuclei_field

HiddenScore = Callable[[Competition, Path, Path, Path], float]
"""The host's score of a submission from the adapter, the folder, the submission and the hidden truth."""
Found = Mapping[str, Detections]


@dataclass(frozen=True, kw_only=True)
class DemoFolder:
    """How a competition's folder is made, and how a submission is scored on the truth of its hidden test."""

    make: Callable[..., object]
    """Called with the folder, `seed` and `truth_path`, which lies outside the folder."""
    score: HiddenScore
    """What the host would say."""
    truth_name: str = "hidden_truth.csv"
    """Of the truth: a table, or a folder of the competition's layout whose training images are the hidden ones."""
    submission_name: str = "submission.csv"
    """Of the file that the host takes."""


def _score_masks(
    column: str, competition: Competition, root: Path, submission: Path, truth: Path, order: str = "F"
) -> float:
    """Of masks whose truth is a table with a column of run lengths; the sizes are the files' own."""
    samples = competition.samples(root, "test")
    texts = _read_rles(truth, ("id", column))
    shapes = {sample.id: header_shape_of(sample.image_path) for sample in samples}
    truths = {key: parse_rle(texts[key], shape_hw, order) for key, shape_hw in shapes.items() if shape_hw is not None}
    rows = _read_rles(submission, competition.columns)
    predictions = {key: parse_rle(rows[key], runs.shape_hw, order) for key, runs in truths.items()}
    return competition.score(predictions, truths).mean


def _read_rles(path: Path, columns: tuple[str, ...]) -> dict[str, str]:
    """The run lengths of a table of two columns by its ids; the row of an empty slice is read as none."""
    table = read_table(path, columns)
    texts = zip(table[columns[0]], table[columns[1]], strict=True)
    return {key: "" if text == EMPTY_ROW else text for key, text in texts}


def _score_objects(
    read: Callable[[Path, Path], Found], competition: Competition, root: Path, submission: Path, truth: Path
) -> float:
    """Of objects whose truth is a folder: an adapter of its own knows what is true in it."""
    judge = cast(ObjectCompetition, get_competition(competition.name))
    return judge.score_objects(read(root, submission), judge.samples(truth, "train")).mean


def _read_vessels(root: Path, submission: Path) -> Found:
    """The detections of a submission of 2023."""
    table = read_table(submission, ("id", "height", "width", "prediction_string"))
    found = {}
    for row in table.to_dict("records"):
        items, shape_hw = row["prediction_string"].split(), (int(row["height"]), int(row["width"]))
        counts = [zlib.decompress(base64.b64decode(coded)).decode() for coded in items[2::3]]
        parts = [runs_from_counts(text, shape_hw) for text in counts]
        scores = np.array(items[1::3], dtype=np.float64)
        found[row["id"]] = Detections(Objects.from_runs(parts, shape_hw), scores)
    return found


def _read_nuclei(root: Path, submission: Path) -> Found:
    """The detections of an answer.json; images are told by the numbers of test_img_ids.json."""
    images = json.loads((root / "test_img_ids.json").read_text())
    answers = json.loads(submission.read_text())
    found = {}
    for image in images:
        shape_hw = int(image["height"]), int(image["width"])
        own = [answer for answer in answers if answer["image_id"] == image["id"]]
        parts = [runs_from_counts(answer["segmentation"]["counts"], shape_hw) for answer in own]
        scores = np.array([answer["score"] for answer in own], dtype=np.float64)
        found[Path(image["file_name"]).stem] = Detections(Objects.from_runs(parts, shape_hw), scores)
    return found


DEMO_FOLDERS = {
    "hubmap_2022": DemoFolder(make=make_hubmap_2022, score=partial(_score_masks, "rle")),
    "kidney_2020": DemoFolder(
        make=partial(make_kidney_2020, num_train=10, num_test=3, max_side=1600),
        score=partial(_score_masks, "encoding"),
    ),
    "vasculature_2023": DemoFolder(
        make=partial(make_vasculature_2023, num_train=45, num_test=8),
        score=partial(_score_objects, _read_vessels),
        truth_name="hidden_truth",
    ),
    "sennet_2024": DemoFolder(make=make_sennet_2024, score=partial(_score_masks, "rle", order="C")),
    "vrdl_nuclei": DemoFolder(
        make=partial(make_vrdl_nuclei, num_train=15, num_test=5, max_side=384),
        score=partial(_score_objects, _read_nuclei),
        truth_name="hidden_truth",
        submission_name="answer.json",
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


def submission_name(name: str) -> str:
    """The name of the file that a competition's host takes."""
    return DEMO_FOLDERS[name].submission_name if name in DEMO_FOLDERS else DemoFolder.submission_name


def hidden_score(competition: Competition, root: Path, submission: Path, truth: Path) -> float:
    """The host's score of a submission on the hidden truth of a synthetic folder."""
    return demo_folder(competition.name).score(competition, root, submission, truth)


_LEAST_SHRINK, _REAL_SIDE_PX = 0.2, 3000
_OBJECT_LOOKS = {
    "vasculature_2023": ("kidney vessels", "dataset_1", "pas", 0.5),
    "vrdl_nuclei": ("nuclei", "", "eosin", 0.25),
}


def hidden_looks(competition: str, organs: tuple[str, ...] = ()) -> list[tuple[str, str, str, float]]:
    """Organ, source, stain and pixel size in um of a competition's images, each organ from each source in turn.

    Raises:
        InputError: If an organ is not one of the competition's.
    """
    if competition in _OBJECT_LOOKS:
        return [_OBJECT_LOOKS[competition]]
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
        if organ == "nuclei":
            tissue = list(TISSUES)[number % len(TISSUES)]
            field = NucleiSpec(key=key, tissue=tissue, style="pink", shape_hw=shape_hw, pixel_size_um=pixel_size_um)
            return draw_nuclei_field(field)[0]
        spec = SlideSpec(
            key=key,
            organ=organ,
            stain=draw_stain(np.random.default_rng(key), stain),
            shape_hw=shape_hw,
            pixel_size_um=pixel_size_um,
            shrink=self._shrink,
        )
        return SyntheticSlide(spec).whole().image_HWC
