"""The rehearsal on the visible run: a slide that costs nothing, the ladder of sizes, the line that a log holds."""

import logging
import time
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from histofold.competitions.folder import Folder
from histofold.competitions.hubmap_2022 import Hubmap2022
from histofold.competitions.kidney_2020 import Kidney2020
from histofold.core.log import logger
from histofold.kernels.forecast import (
    REHEARSAL_LONGEST_S,
    REHEARSAL_SIDES,
    RehearsalSlide,
    RehearsalTiming,
    parse_timing,
    rehearse_hidden,
)

LARGEST = REHEARSAL_SIDES[-1]


@dataclass
class TimedPass:
    seconds: float
    megapixels: float
    passes: int


@dataclass
class Timer:
    """A predictor that takes so many seconds a megapixel, and says so without taking them."""

    rate: float
    device: str = "2 x Tesla T4"
    timed: list = field(default_factory=list)

    def time_slide(self, slide, pixel_size_um):
        assert slide.shape_hw[0] == slide.shape_hw[1]
        megapixels = slide.shape_hw[0] * slide.shape_hw[1] / 1e6
        self.timed.append(slide.shape_hw[0])
        return TimedPass(self.rate * megapixels, megapixels * (pixel_size_um / 1.6) ** 2, 8)


@pytest.fixture
def told(caplog):
    caplog.set_level(logging.INFO, logger=logger.name)
    return caplog


def timings(told):
    return [parse_timing(message) for message in told.messages if "histofold-timing " in message]


def test_any_region_of_the_slide_is_that_of_the_whole():
    slide = RehearsalSlide((1200, 701))
    whole_HWC = slide.read(slice(None), slice(None))
    assert whole_HWC.shape == (1200, 701, 3)
    assert whole_HWC.dtype == np.uint8
    rng = np.random.default_rng(0)
    for _ in range(50):
        (y0, y1), (x0, x1) = (np.sort(rng.choice(side + 1, 2, replace=False)) for side in (1200, 701))
        assert np.array_equal(slide.read(slice(y0, y1), slice(x0, x1)), whole_HWC[y0:y1, x0:x1])
    assert np.array_equal(RehearsalSlide((5, 7)).read(slice(4, 5), slice(6, 7)), whole_HWC[4:5, 6:7])
    assert whole_HWC.std() > 20, "it is not blank: nothing would be left out of it"
    with pytest.raises(ValueError, match="0 <= start < stop"):
        slide.read(slice(0, 1201), slice(None))


def test_a_fast_machine_times_the_largest_slide(told):
    timer = Timer(0.1)
    rehearse_hidden(Hubmap2022(), 9 * 3600.0)(timer)
    assert timer.timed == list(REHEARSAL_SIDES)
    (timing,) = timings(told)
    assert (timing.side, timing.passes, timing.device) == (LARGEST, 8, "2 x Tesla T4")
    assert timing.hidden_s() == pytest.approx(550 * 0.1 * LARGEST**2 / 1e6, abs=2)
    assert any("it fits" in message for message in told.messages)


def test_a_slow_machine_times_a_small_one_and_says_so(told):
    timer = Timer(REHEARSAL_LONGEST_S / 1.2)
    rehearse_hidden(Hubmap2022(), 9 * 3600.0)(timer)
    assert timer.timed == [REHEARSAL_SIDES[0]]
    (timing,) = timings(told)
    assert timing.hidden_s() == pytest.approx(550 * timer.rate * LARGEST**2 / 1e6, rel=0.001)
    assert any("the forecast is made from one of 768" in message for message in told.messages)
    assert any("it does not fit" in message for message in told.messages)


@pytest.mark.parametrize(("spare_s", "words"), [(301, "it fits"), (299, "it does not fit")])
def test_what_is_kept_back_for_the_last_rows_does_not_count_as_time(spare_s, words):
    timing = replace(
        TIMING, side=3000, seconds=10.0, fixed_s=0.0, limit_s=1000.0 + spare_s, hidden_images=100, hidden_side=3000
    )
    assert words in timing.words()[1]


def test_slides_larger_than_the_timed_one_are_scaled(told):
    rehearse_hidden(Kidney2020(), 9 * 3600.0)(Timer(0.01))
    (timing,) = timings(told)
    assert timing.hidden_s() == pytest.approx(10 * 0.01 * Kidney2020.hidden_image_side**2 / 1e6, rel=0.01)


@pytest.mark.parametrize(("competition", "limit_s"), [(Folder(), 1e6), (Hubmap2022(), 310.0), (Hubmap2022(), 1.0)])
def test_without_time_or_a_hidden_set_nothing_is_timed(told, competition, limit_s):
    timer = Timer(0.1)
    rehearse_hidden(competition, limit_s)(timer)
    assert timer.timed == []
    assert any("no forecast" in message for message in told.messages)


def test_what_went_before_counts_as_fixed(told, monkeypatch):
    rehearse = rehearse_hidden(Hubmap2022(), 9 * 3600.0)
    later = time.monotonic() + 100
    monkeypatch.setattr(time, "monotonic", lambda: later)
    rehearse(Timer(0.0))
    assert timings(told)[0].hidden_s() == pytest.approx(100, abs=1)


TIMING = RehearsalTiming(
    competition="hubmap_2022",
    device='a "T4"',
    side=4500,
    pixel_size_um=0.5,
    seconds=10.0,
    megapixels=2.0,
    passes=4,
    fixed_s=100.0,
    limit_s=32400.0,
    hidden_images=550,
    hidden_side=4500,
)


def test_the_line_of_a_log_comes_back():
    assert parse_timing(f"2026-01-01 12:00:00,000 INFO {TIMING.line()} and more\n") == TIMING
    assert TIMING.hidden_s() == 100 + 5500
    assert replace(TIMING, hidden_side=9000).hidden_s() == 100 + 4 * 5500


@pytest.mark.parametrize(
    "line",
    [
        "no timing",
        "histofold-timing {",
        "histofold-timing [1]",
        TIMING.line().replace("timing/1", "timing/9"),
        TIMING.line().replace('"side": 4500', '"side": 0'),
        TIMING.line().replace('"seconds": 10.0', '"seconds": NaN'),
        TIMING.line().replace('"seconds": 10.0', '"seconds": -1'),
        TIMING.line().replace('"seconds": 10.0', '"seconds": "10"'),
        TIMING.line().replace('"passes": 4, ', ""),
    ],
)
def test_a_broken_line_is_refused(line):
    with pytest.raises(ValueError, match=r"timing|number|pixels|Expecting"):
        parse_timing(line)
