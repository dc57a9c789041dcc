"""One image under the clock: before each batch the budget says how many members and views still work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from histofold.predict.devices import device_lock
from histofold.predict.stages import Level, Networks, Stage, full_level, stages_at
from histofold.predict.submission.budget import Budget
from histofold.predict.tiled import TileBatch


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
        """A batch through the passes of a stage that the budget allows; the clock is asked for blank tiles too.

        Raises:
            OutOfTimeError: If nothing is left of the time.
        """
        self._lower()
        tile_megapixels = batch.images.shape[1] * batch.images.shape[2] / 1e6
        values_NKHW, seconds = np.empty((0, 0, 0, 0), np.float32), 0.0
        seen = len(batch.places) * tile_megapixels
        if batch.places:
            passes = stage.passes_at(self.level, begun=True)
            with device_lock(networks.device):  # waiting for another stage is no work
                started = time.monotonic()
                values_NKHW = networks(batch.images, passes, stage.manifest)
                seconds = (time.monotonic() - started) / len(stage.networks)
            self._budget.record_batch(seconds, seen * len(passes), f"{networks.device} {stage.place}")
        with self._lock:
            self.seconds += seconds
            self.seen += seen
            self._left[stage.place] = max(0.0, self._left[stage.place] - len(batch.tiles) * tile_megapixels)
        return values_NKHW

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
