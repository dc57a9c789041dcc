"""Every slide of an evaluation to look at: pictures in a folder beside the page, small maps of what was found."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from histofold.core.objects.instances import Objects
from histofold.core.rle.runs import class_runs
from histofold.data.thumbnails import fitting_shape, read_small, small_owners
from histofold.imaging.slide import open_sample
from histofold.report.blocks import BrowsedSlide, Browser, Figure, Legend, Linked, Text, Viewer
from histofold.report.pictures.layers import Layers, probability_colours, slide_layers
from histofold.report.pictures.overlays import (
    FALSE_RGB,
    MISSED_RGB,
    PREDICTION_RGB,
    TRUTH_RGB,
    draw_overlay,
    encode_jpeg,
)
from histofold.schema.files import remove_leftovers, written_whole
from histofold.schema.sample import Sample
from histofold.trust.evaluation import Evaluation
from histofold.trust.masks import MaskEvaluation
from histofold.trust.scored import MAP_SIDE, PROBABILITY_CUTS

PICTURES_NAME = "report"
"""The folder of the pictures beside report.html."""
THUMBNAIL_SIDE = 144
MOST_BROWSED = 1000
"""Of more slides every so many are shown, from the worst to the best: the page stays small."""
_QUALITY = 80
_LEVELS = len(PROBABILITY_CUTS)
LAYER_LEGENDS = (
    Legend((("truth", TRUTH_RGB), ("found", PREDICTION_RGB), ("missed", MISSED_RGB), ("falsely found", FALSE_RGB))),
    Legend(
        tuple(
            (f"probability {name}", probability_colours(_LEVELS)[level][:3])
            for name, level in (("below 0.05", 0), ("0.5", _LEVELS // 2 + 1), ("0.95 or more", _LEVELS))
        )
    ),
)
"""The colours of all layers."""


BROWSER_WORDS = Text(
    [
        "From the worst to the best. Choose a slide to open it, then go on with the arrow keys; the switch says what "
        "is laid over it. Pictures have at most 640 px a side, and lie in the folder report beside this page."
    ]
)


class ShownClass(NamedTuple):
    """One class of a slide in small."""

    words: str
    """Its score, and of several classes its name."""
    truth: np.ndarray
    """The truth, bool (h, w)."""
    mask: np.ndarray
    """The mask at its threshold, bool (h, w)."""
    levels: np.ndarray | None
    """How many of `PROBABILITY_CUTS` each pixel reaches, uint8; None where that is not known."""

    @property
    def layers(self) -> Layers:
        """What is laid over the picture."""
        return slide_layers(self.truth, self.mask, self.levels, _LEVELS)


class ShownSlide(NamedTuple):
    """A slide in small, as its fold saw it."""

    sample: Sample
    """The slide."""
    score: float
    """Its score; NaN where it has none."""
    classes: list[ShownClass]
    """Its classes."""


def shown_slides(evaluation: MaskEvaluation, places: Iterable[int]) -> Iterator[ShownSlide]:
    """Slides by their places in oof.csv, with the masks that were scored."""
    for place in places:
        row, cuts = evaluation.oof.iloc[place], np.atleast_1d(evaluation.cuts[place]).tolist()
        sample = evaluation.samples[row["id"]]
        scored = evaluation.slides[sample.id]
        names = evaluation.class_names
        small_hw = fitting_shape(scored.shape_hw, MAP_SIDE)
        classes = []
        for place_of_class, (each, cut, truth) in enumerate(
            zip(scored.classes, cuts, class_runs(evaluation.truth.target(sample)), strict=True)
        ):
            words = f"Dice {row['dice']:.3f} at {cut:g}"
            if len(names) > 1:
                name = names[place_of_class]
                words = f"{name}, Dice {row[f'dice_{name}']:.3f} at {cut:g}"
            truth_HW = small_owners(Objects.from_runs([truth], truth.shape_hw), small_hw) >= 0
            levels_HW = each.small_probabilities() if each.probabilities else None
            classes.append(ShownClass(words, truth_HW, each.small_mask(cut), levels_HW))
        yield ShownSlide(sample, float(row["dice"]), classes)


def read_picture(sample: Sample) -> np.ndarray:
    """A slide at the size of its maps, uint8 HWC."""
    with open_sample(sample) as slide:
        return read_small(slide, fitting_shape(slide.shape_hw, MAP_SIDE))


def slide_viewers(shown: ShownSlide, picture_HWC: np.ndarray, name: str) -> list[Viewer]:
    """A viewer for each class of a slide, its pictures inside the page.

    Args:
        shown: The slide.
        picture_HWC: The slide alone, as `read_picture` gives it.
        name: What stands before the score in its caption.
    """
    viewers, picture = [], Figure(encode_jpeg(picture_HWC, _QUALITY))
    for each in shown.classes:
        layers = {key: Figure(content) for key, content in each.layers._asdict().items() if content is not None}
        viewers.append(_viewer(f"{name}{shown.sample.id}, {each.words}", picture, layers, shown.sample.id))
    return viewers


def _viewer(caption: str, picture: Figure, layers: Mapping[str, Figure], slide_id: str) -> Viewer:
    """A viewer that begins with the errors; each picture says what it is of."""
    named = {key: Figure(each.image, alt=f"{key} of {slide_id}") for key, each in layers.items()}
    return Viewer(Figure(picture.image, caption, f"slide {slide_id}"), named, shown="errors")


def slide_browser(
    evaluation: Evaluation, scores: np.ndarray, shown_at: Callable[[Iterable[int]], Iterator[ShownSlide]]
) -> Browser:
    """All slides from the worst to the best; their pictures are written into the folder `PICTURES_NAME` of the run.

    Args:
        evaluation: Of the run.
        scores: Of each slide, float (N,); those without one, NaN, are last.
        shown_at: Gives the slides of some places.
    """
    order = np.argsort(scores, kind="stable")
    kept = order[np.unique(np.linspace(0, len(order) - 1, min(MOST_BROWSED, len(order))).round().astype(int))]
    folder = PictureFolder(evaluation.run)
    bar = tqdm(kept.tolist(), "pictures", unit="slide", leave=False, dynamic_ncols=True)
    slides = [folder.browsed(shown, _content_key(evaluation, shown.sample.id)) for shown in shown_at(bar)]
    folder.drop_others()
    return Browser(slides, list(slides[0].viewers[0].layers), shown="errors")


def _content_key(evaluation: Evaluation, sample_id: str) -> str:
    """The pixels of a slide, as the run recorded them; empty where it did not."""
    return next((fold.record.inputs.get(f"pixels {sample_id}", "") for fold in evaluation.folds), "")


class PictureFolder:
    """The pictures of all slides beside a page; a slide's own picture is kept while its pixels stay the same."""

    def __init__(self, run: Path) -> None:
        self.folder = run / PICTURES_NAME
        remove_leftovers(self.folder)
        self._written: set[str] = set()

    def browsed(self, shown: ShownSlide, content_key: str) -> BrowsedSlide:
        """Write the pictures of a slide."""
        sample = shown.sample
        stem = hashlib.sha256(f"{sample.id}\n{content_key}".encode()).hexdigest()[:16]
        path = self.folder / f"{stem}.jpg"
        kept = cv2.imread(str(path)) if content_key and path.is_file() else None
        if kept is None:
            picture_HWC = read_picture(sample)
            self._write(path.name, encode_jpeg(picture_HWC, _QUALITY), picture_HWC.shape)
        else:
            picture_HWC = kept[..., ::-1].copy()
        picture = self._linked(path.name, picture_HWC.shape)
        viewers = []
        for place, each in enumerate(shown.classes):
            layers = {
                name: self._write(f"{stem}-{place}-{name}.png", content, picture_HWC.shape)
                for name, content in each.layers._asdict().items()
                if content is not None
            }
            viewers.append(_viewer(f"{sample.id}, {each.words}", picture, layers, sample.id))
        small_HWC = draw_overlay(picture_HWC, shown.classes[0].truth, shown.classes[0].mask, THUMBNAIL_SIDE)
        thumbnail = self._write(f"{stem}-small.jpg", encode_jpeg(small_HWC, _QUALITY), small_HWC.shape)
        score = "no score" if np.isnan(shown.score) else f"{shown.score:.3f}"
        about = " · ".join(filter(None, (sample.id, sample.organ, score)))
        return BrowsedSlide(Figure(thumbnail.image, about), viewers)

    def _write(self, name: str, content: bytes, shape: tuple[int, ...]) -> Figure:
        with written_whole(self.folder / name) as temporary:  # not synced: thousands of files that can be made again
            temporary.write_bytes(content)
        return self._linked(name, shape)

    def _linked(self, name: str, shape: tuple[int, ...]) -> Figure:
        self._written.add(name)
        return Figure(Linked(f"{PICTURES_NAME}/{name}", (shape[0], shape[1])))

    def drop_others(self) -> None:
        """Remove what earlier reports left in the folder."""
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.name not in self._written and path.suffix in (".jpg", ".png"):
                path.unlink()
