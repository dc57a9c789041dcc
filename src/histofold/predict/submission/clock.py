"""The clock: what a pass over a megapixel takes, what to leave out when time runs short, and where that is asked.

Before each batch `ImagePacer` asks the `Budget` how many members and views still work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from histofold.predict.devices import device_lock
from histofold.predict.stages import Level, Networks, OutOfTimeError, Stage, full_level, stages_at
from histofold.predict.tiled import Answer, PassesCall, TileBatch, dense_values

FEWEST_BATCHES = 2  # before as many are measured nothing is left out
FORGETTING = 0.98  # what a batch leaves of the weight of those before it: one slow image is no rule
FEW_IMAGES = 8
RESERVE_S = 300.0  # before the limit: the last rows are written in it
ALIKE = 1e-3  # images whose sizes vary less (variance over mean square) cannot separate size from number


@dataclass
class Budget:
    """Decides before each batch how many members and views can be afforded.

    Time is forecast as seconds of a forward pass for each megapixel, times the passes that are left, plus what an image
    costs beside its passes (opening, reading that the passes do not hide, cleaning, writing).
    """

    limit_s: float | None
    """Seconds that the whole run may take; None means no limit."""
    reserve_s: float = RESERVE_S
    """How long before the limit all must be written; half of a limit that is shorter than twice that."""
    started: float = field(default_factory=time.monotonic)
    """Clock reading at the start, in seconds."""
    batches: int = 0
    forward_s: float = 0.0
    forward_work: float = 0.0
    beside: np.ndarray = field(default_factory=lambda: np.zeros(5), repr=False)
    """Of what images cost beside their passes: their number, and the sums of seconds, megapixels, their square and
    their product."""
    grid_megapixels: float = 0.0
    seen_megapixels: float = 0.0
    warm: set[str] = field(default_factory=set, repr=False)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def left_s(self) -> float:
        """Seconds until everything must be written."""
        if self.limit_s is None:
            return float("inf")
        usable_s = self.limit_s - min(self.reserve_s, 0.5 * self.limit_s)
        return usable_s - (time.monotonic() - self.started)

    def record_batch(self, seconds: float, work: float, where: str = "") -> None:
        """Note what a batch took.

        Args:
            seconds: Seconds of the forward passes; of several devices side by side their share of the time.
            work: Megapixels times passes.
            where: Names device and network: the first batch there pays for warming up and does not count.
        """
        with self.lock:
            if where not in self.warm:
                self.warm.add(where)
                return
            self.batches += 1
            self.forward_s = FORGETTING * self.forward_s + seconds
            self.forward_work = FORGETTING * self.forward_work + work

    def record_image(self, seconds: float, megapixels: float, seen: float | None = None) -> None:
        """Note what an image took beside its forward passes; the first one does not count for that.

        Args:
            seconds: Seconds.
            megapixels: Megapixels of its tiles.
            seen: Megapixels of those that went through the network (blank ones may not); None means all.
        """
        with self.lock:
            if self.grid_megapixels > 0:
                cost_s = max(0.0, seconds)
                self.beside += (1.0, cost_s, megapixels, megapixels**2, cost_s * megapixels)
            self.grid_megapixels += megapixels
            self.seen_megapixels += megapixels if seen is None else seen

    def seen_share(self) -> float:
        """Share of the tiles that went through the network so far."""
        return self.seen_megapixels / self.grid_megapixels if self.grid_megapixels > 0 else 1.0

    def rate(self) -> float | None:
        """Seconds a megapixel and pass, None while too little is measured; late batches weigh more."""
        if self.batches < FEWEST_BATCHES or self.forward_work <= 0:
            return None
        return self.forward_s / self.forward_work

    def beside_s(self, images_left: int, megapixels_left: float) -> float:
        """Forecast of what the images left cost beside their passes: so much an image and so much a megapixel.

        Both are fitted by least squares, neither below 0. While all images are of one size there is no telling them
        apart: then the higher forecast of the two counts, and of very few images the lower one.
        """
        with self.lock:
            count, sum_s, sum_mp, sum_mp2, sum_product = self.beside.tolist()
        if not count:
            return 0.0
        by_image, by_megapixel, mean_mp = sum_s / count, sum_s / max(sum_mp, 1e-9), sum_mp / count
        variance = sum_mp2 / count - mean_mp**2
        if variance < ALIKE * mean_mp**2 or count < 3:
            either = by_image * images_left, by_megapixel * megapixels_left
            return min(either) if count < FEW_IMAGES else max(either)
        slope = min(max((sum_product / count - by_image * mean_mp) / variance, 0.0), sum_product / sum_mp2)
        constant = max(0.0, by_image - slope * mean_mp)
        return constant * images_left + slope * megapixels_left

    def affordable(self, work: Callable[[Level], float], level: Level, beside_s: float = 0.0) -> Level:
        """The level that the time left allows.

        Views go first, since they cost most and give least; then members. One pass always stays.

        Args:
            work: Megapixels times passes that are left at a level.
            level: The highest.
            beside_s: Seconds that are needed beside the passes.

        Raises:
            OutOfTimeError: If nothing is left of the time.
        """
        left_s = self.left_s()
        if left_s <= 0:
            raise OutOfTimeError
        rate = self.rate()
        if rate is None or left_s == float("inf"):
            return level
        levels = [Level(level.members, views) for views in range(level.views, 0, -1)]
        levels += [Level(members, 1) for members in range(level.members - 1, 0, -1)]
        return next((each for each in levels if rate * work(each) + beside_s <= left_s), levels[-1])


@dataclass(frozen=True)
class WorkAhead:
    """What follows an image."""

    megapixels: tuple[float, ...]
    """For each stage of the whole ensemble the megapixels of the tiles that are left."""
    images: int
    """Images that are left."""


class ImagePacer:
    """Keeps an image's forward passes within the budget. Within an image the level only falls.

    Afterwards it holds `seconds` of the passes, the megapixels of the tiles of all stages that were `begun`, and those
    that went through the network, `seen` (blank tiles do not).

    Args:
        budget: The clock.
        stages: All stages of the whole ensemble; it is their passes that the forecast counts.
        own: Megapixels of this image for each of them.
        later: What follows this image.
        say: Takes what happens, in words.
    """

    def __init__(
        self,
        budget: Budget,
        stages: Sequence[Stage],
        own: Sequence[float],
        later: WorkAhead,
        say: Callable[[str], None],
    ) -> None:
        self._budget, self._stages, self._later, self._say = budget, stages, later, say
        self._left = list(own)
        self._lock = threading.Lock()
        self._running: set[int] = set()
        self.full = self.level = full_level(stages)
        self.seconds = 0.0
        self.begun = 0.0
        self.seen = 0.0

    def begin(self) -> list[Stage]:
        """The stages that the image begins with.

        Raises:
            OutOfTimeError: If nothing is left of the time.
        """
        self._lower()
        stages = stages_at(self._stages, self.level)
        self._running = {stage.place for stage in stages}
        self._left = [left if place in self._running else 0.0 for place, left in enumerate(self._left)]
        self.begun = sum(self._left)
        return stages

    def forward(self, stage: Stage, networks: Networks, batch: TileBatch) -> np.ndarray:
        """A batch through the passes of a stage that the budget allows, as `forward_batch`; see `run_batch`."""
        return dense_values(self.run_batch(stage, networks, batch, networks))

    def run_batch(self, stage: Stage, networks: Networks, batch: TileBatch, call: PassesCall[Answer]) -> Answer | None:
        """What `call` makes of a batch and the passes that the budget allows; None where all tiles are blank.

        The clock is asked for blank tiles too.

        Raises:
            OutOfTimeError: If nothing is left of the time.
        """
        self._lower()
        tile_megapixels = batch.images.shape[1] * batch.images.shape[2] / 1e6
        answer, seconds = None, 0.0
        seen = len(batch.places) * tile_megapixels
        if batch.places:
            passes = stage.passes_at(self.level, begun=True)
            with device_lock(networks.device):  # waiting for another stage is no work
                started = time.monotonic()
                answer = call(batch.images, passes, stage.manifest)
                seconds = (time.monotonic() - started) / len(stage.networks)
            self._budget.record_batch(seconds, seen * len(passes), f"{networks.device} {stage.place}")
        with self._lock:
            self.seconds += seconds
            self.seen += seen
            self._left[stage.place] = max(0.0, self._left[stage.place] - len(batch.tiles) * tile_megapixels)
        return answer

    def allows(self, megapixels: float) -> bool:
        """Whether the passes of so many megapixels more, at the level reached, leave time for what follows."""
        rate = self._budget.rate() or 0.0
        passes = sum(len(stage.passes_at(self.level)) for stage in self._stages)
        return rate * (megapixels * passes + self._work(self.level)) <= self._budget.left_s()

    def _lower(self) -> None:
        with self._lock:
            megapixels = sum(self._left) + sum(self._later.megapixels)
            beside_s = self._budget.beside_s(self._later.images + 1, megapixels)
            level = self._budget.affordable(self._work, self.level, beside_s)
            if level == self.level:
                return
            words = "%.0f s are left for work of %.0f s: on with %d of %d members and %d of %d views"
            rate = self._budget.rate() or 0.0
            needed_s = rate * self._work(self.level) + beside_s
            counts = level.members, self.full.members, level.views, self.full.views
            self._say(words % (self._budget.left_s(), needed_s, *counts))
            self.level = level

    def _work(self, level: Level) -> float:
        """Megapixels times passes that are left at a level; a stage of this image that has begun keeps a pass."""
        share = self._budget.seen_share()
        work = 0.0
        for stage, left, later in zip(self._stages, self._left, self._later.megapixels, strict=True):
            passes = len(stage.passes_at(level))
            kept = max(1, passes) if stage.place in self._running else passes
            work += left * kept + share * later * passes
        return work
