"""What the hidden test set will take: a large synthetic slide, timed on the visible run, and the forecast from it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Protocol

import numpy as np

from histofold.competitions.base import Competition
from histofold.core.log import logger
from histofold.imaging.slide import slide_range
from histofold.predict.submission.budget import RESERVE_S, usable_s

TIMING_MARK = "histofold-timing"
"""What the line of a log begins with that `histofold simulate --log` reads; JSON follows."""
TIMING_FORMAT = "histofold-timing/1"
REHEARSAL_SIDES = (768, 1536, 4500)
"""Sides of the slides that are timed, in pixels: the smaller ones warm up and tell whether the next can be afforded."""
REHEARSAL_PIXEL_SIZE_UM = 0.5
"""Their pixel size; most hidden slides are finer, and then a network at one physical scale has less to do."""
REHEARSAL_LONGEST_S = 120.0
"""What the rehearsal may take in all."""
REHEARSAL_LEAST_S = 20.0
"""With less time left it is not begun."""
_TEXTURE_SIDE = 509  # a prime, so that the repeats never fall in with tiles


@dataclass(frozen=True, kw_only=True)
class RehearsalTiming:
    """One timed slide and what is to be predicted, as the log's line holds it.

    Attributes:
        competition: Name of the adapter.
        device: In words.
        side: Side of the slide in pixels.
        pixel_size_um: Its pixel size.
        seconds: What it took with all members and views.
        megapixels: Pixels that one pass forwards, in millions.
        passes: Members times views.
        fixed_s: Seconds of all that went before, the visible images included.
        limit_s: Seconds that the kernel may take.
        hidden_images: Images of the hidden set.
        hidden_side: Side in pixels of the largest of them.
        format: Version of this description.
    """

    competition: str
    device: str
    side: int
    pixel_size_um: float
    seconds: float
    megapixels: float
    passes: int
    fixed_s: float
    limit_s: float
    hidden_images: int
    hidden_side: int
    format: str = TIMING_FORMAT

    def hidden_s(self) -> float:
        """Seconds that the hidden set takes if each image is as large as the largest: hence at most."""
        return self.fixed_s + self.hidden_images * self.seconds * (self.hidden_side / self.side) ** 2

    def line(self) -> str:
        """The line of the log."""
        return f"{TIMING_MARK} {json.dumps(asdict(self))}"

    def words(self) -> list[str]:
        """What was timed, and the forecast."""
        hours, limit_h = self.hidden_s() / 3600, usable_s(self.limit_s) / 3600
        verdict = "it fits" if hours <= limit_h else "it does not fit: views, then members would be left out"
        return [
            f"rehearsal: {self.side} x {self.side} pixels took {self.seconds:.2f} s in {self.passes} passes of "
            f"{self.megapixels:.1f} megapixels on {self.device}",
            f"forecast for the hidden set: {self.hidden_images} images, all as large as the largest "
            f"({self.hidden_side} x {self.hidden_side}), would take {hours:.2f} of the {limit_h:.2f} h after which "
            f"all must be written: {verdict}",
        ]


def parse_timing(line: str) -> RehearsalTiming:
    """The timing in a line of a log that holds one, whatever stands before it.

    Raises:
        ValueError: If the line holds none, or one of another format.
    """
    _, mark, text = line.partition(f"{TIMING_MARK} ")
    data = json.JSONDecoder().raw_decode(text.lstrip())[0] if mark else None
    if not isinstance(data, dict) or data.get("format") != TIMING_FORMAT:
        raise ValueError(f"no timing of format {TIMING_FORMAT}")
    names = {field.name for field in fields(RehearsalTiming)}
    if set(data) != names:
        raise ValueError(f"a timing has the keys {', '.join(sorted(names))}, and here {', '.join(sorted(data))}")
    numbers = [value for name, value in data.items() if name not in ("competition", "device", "format")]
    if not all(type(value) in (int, float) and math.isfinite(value) and value >= 0 for value in numbers):
        raise ValueError(f"a number of the timing is none, negative or not finite: {data}")
    if data["side"] < 1:
        raise ValueError("the timed slide has no pixels")
    return RehearsalTiming(**data)


class RehearsalSlide:
    """A square of stained-looking tissue that is made where it is read: it costs a region, never the slide.

    Attributes:
        shape_hw: Height and width in pixels.
    """

    def __init__(self, shape_hw: tuple[int, int]) -> None:
        self.shape_hw = shape_hw
        self._texture_HWC = _tissue_texture()

    def read(self, y: slice, x: slice) -> np.ndarray:
        """A region as uint8 RGB (h, w, 3); `y` and `x` as those of a slide."""
        rows = np.asarray(slide_range(y, self.shape_hw[0], "y")) % _TEXTURE_SIDE
        columns = np.asarray(slide_range(x, self.shape_hw[1], "x")) % _TEXTURE_SIDE
        region_HWC: np.ndarray = self._texture_HWC[rows[:, None], columns]
        return region_HWC


def _tissue_texture() -> np.ndarray:
    """Pink with dark blobs and noise, uint8; always the same."""
    rng = np.random.default_rng(0)
    blobs_HW = rng.random((_TEXTURE_SIDE // 16 + 1,) * 2).repeat(16, axis=0).repeat(16, axis=1)
    dark_HW1 = blobs_HW[:_TEXTURE_SIDE, :_TEXTURE_SIDE, None] ** 2
    noise_HWC = rng.normal(0, 4, (_TEXTURE_SIDE, _TEXTURE_SIDE, 3))
    texture_HWC: np.ndarray = (np.array([230, 180, 205]) - dark_HW1 * np.array([120, 130, 70]) + noise_HWC).astype(
        np.uint8
    )
    return texture_HWC


class TimedRegion(Protocol):
    """What timing a slide gives."""

    @property
    def seconds(self) -> float:
        """Wall time."""
        ...

    @property
    def megapixels(self) -> float:
        """Pixels that one pass forwards, in millions."""
        ...

    @property
    def passes(self) -> int:
        """Members times views."""
        ...


class SlideTimer(Protocol):
    """What the rehearsal needs of the predictor."""

    @property
    def device(self) -> str:
        """What the networks run on, in words."""
        ...

    def time_slide(self, slide: RehearsalSlide, pixel_size_um: float | None) -> TimedRegion:
        """Predict a slide with all members and views and time it."""
        ...


def rehearse_hidden(competition: Competition, limit_s: float) -> Callable[[SlideTimer], None]:
    """What a visible run does at its end: time large slides and log the forecast for the hidden set.

    It is left out, in words, where time is short; a slide that would take minutes, as on a CPU, is left out and the
    forecast made from a smaller one.

    Args:
        competition: Says how many images are hidden, and of which size.
        limit_s: Seconds from this call on that the kernel may take.
    """
    started = time.monotonic()

    def rehearse(predictor: SlideTimer) -> None:
        fixed_s = time.monotonic() - started
        allowed_s = min(REHEARSAL_LONGEST_S, limit_s - fixed_s - RESERVE_S)
        if competition.hidden_test_images < 1 or allowed_s < REHEARSAL_LEAST_S:
            why = "too little time is left" if competition.hidden_test_images else "no hidden set is known"
            logger.info("no forecast for the hidden set: %s", why)
            return
        side, timed = _time_largest(predictor, allowed_s)
        timing = RehearsalTiming(
            competition=competition.name,
            device=predictor.device,
            side=side,
            pixel_size_um=REHEARSAL_PIXEL_SIZE_UM,
            seconds=round(timed.seconds, 4),
            megapixels=round(timed.megapixels, 4),
            passes=timed.passes,
            fixed_s=round(fixed_s, 1),
            limit_s=round(limit_s, 1),
            hidden_images=competition.hidden_test_images,
            hidden_side=competition.hidden_image_side,
        )
        for words in (*timing.words(), timing.line()):
            logger.info("%s", words)

    return rehearse


def _time_largest(predictor: SlideTimer, allowed_s: float) -> tuple[int, TimedRegion]:
    """Side and timing of the largest slide of `REHEARSAL_SIDES` that can be afforded; the smallest is always timed."""
    side = REHEARSAL_SIDES[0]
    timed = predictor.time_slide(RehearsalSlide((side, side)), REHEARSAL_PIXEL_SIZE_UM)
    spent_s = timed.seconds
    for larger in REHEARSAL_SIDES[1:]:
        expected_s = timed.seconds * (larger / side) ** 2
        if spent_s + expected_s > allowed_s:
            words = "a slide of %d pixels would take about %.0f s: the forecast is made from one of %d"
            logger.info(words, larger, expected_s, side)
            break
        side, timed = larger, predictor.time_slide(RehearsalSlide((larger, larger)), REHEARSAL_PIXEL_SIZE_UM)
        spent_s += timed.seconds
    return side, timed
