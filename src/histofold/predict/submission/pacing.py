"""One image under the clock: before each batch the budget says how many members and views still work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from histofold.predict.devices import device_lock
from histofold.predict.ensemble import Ensemble
from histofold.predict.joint import Stage
from histofold.predict.submission.budget import Budget
from histofold.predict.tiled import Forward


@dataclass(frozen=True)
class WorkAhead:
    """What follows an image.

    Attributes:
        megapixels: For each stage of the whole ensemble the megapixels of the tiles that are left.
        images: Images that are left.
    """

    megapixels: tuple[float, ...]
    images: int


class ImagePacer:
    """Keeps an image's forward passes within the budget. Within an image the level only falls.

    Afterwards it tells `seconds` of the passes, the megapixels of the tiles of all stages that were `begun`, and those
    that went through the network, `seen` (blank tiles may not).

    Args:
        budget: The clock.
        stages: All stages of the whole ensemble; it is their passes that the forecast counts.
        own: Megapixels of this image for each of them.
        later: What follows this image.
        tell: Takes what happens, in words.
    """

    def __init__(
        self,
        budget: Budget,
        stages: Sequence[Stage],
        own: Sequence[float],
        later: WorkAhead,
        tell: Callable[[str], None],
    ) -> None:
        self._budget, self._stages, self._later, self._tell = budget, stages, later, tell
        self._left = list(own)
        self._lock = threading.Lock()
        self._running: set[int] = set()
        self.seconds = 0.0
        self.begun = 0.0
        self.seen = 0.0

    def begin(self, members: int, views: int) -> tuple[int, int]:
        """The level that the image begins with.

        Raises:
            OutOfTimeError: If nothing is left of the time.
        """
        self.full = self.level = (members, views)
        self._lower()
        return self.level

    def paced(self, stages: Sequence[Stage]) -> list[Stage]:
        """The stages that are left at the first level, asking the budget before each batch."""
        self._running = {self._place(stage) for stage in stages}
        self._left = [left if place in self._running else 0.0 for place, left in enumerate(self._left)]
        self.begun = sum(self._left)
        return [replace(stage, forward=PacedForward(self, stage)) for stage in stages]

    def _lower(self) -> None:
        with self._lock:
            megapixels = sum(self._left) + sum(self._later.megapixels)
            beside_s = self._budget.beside_s(self._later.images + 1, megapixels)
            level = self._budget.affordable(self._work, *self.level, beside_s)
            if level == self.level:
                return
            words = "%.0f s are left for work of %.0f s: on with %d of %d members and %d of %d views"
            rate = self._budget.rate() or 0.0
            needed_s = rate * self._work(*self.level) + beside_s
            self._tell(words % (self._budget.left_s(), needed_s, level[0], self.full[0], level[1], self.full[1]))
            self.level = level

    def _work(self, members: int, views: int) -> float:
        """Megapixels times passes that are left at a level; a stage of this image that has begun keeps a pass."""
        share = self._budget.seen_share()
        work = 0.0
        for place, (stage, later) in enumerate(zip(self._stages, self._later.megapixels, strict=True)):
            passes = stage.passes(members, views)
            kept = max(1, passes) if place in self._running else passes
            work += self._left[place] * kept + share * later * passes
        return work

    def batch(self, stage: Stage, images_NHWC: np.ndarray) -> np.ndarray:
        """A batch of a stage, at the level that the budget allows."""
        self._lower()
        forward, passes = stage.at_level(*self.level)
        device = forward.device if isinstance(forward, Ensemble) else torch.device("cpu")
        with device_lock(device):  # waiting for another stage is no work
            started = time.monotonic()
            values_NKHW = forward(images_NHWC)
            seconds = (time.monotonic() - started) / self._devices(stage)
        megapixels = images_NHWC.shape[0] * images_NHWC.shape[1] * images_NHWC.shape[2] / 1e6
        place = self._place(stage)
        self._budget.record_batch(seconds, megapixels * passes, f"{device} {place}")
        with self._lock:
            self.seconds += seconds
            self.seen += megapixels
            self._left[place] = max(0.0, self._left[place] - megapixels)
        return values_NKHW

    def blank(self, stage: Stage, tiles: int, size: int) -> None:
        """Tiles of a stage that no network need see; the clock is asked for them too."""
        place = self._place(stage)
        with self._lock:
            self._left[place] = max(0.0, self._left[place] - tiles * size**2 / 1e6)
        self._lower()

    def _place(self, stage: Stage) -> int:
        """Place of a stage among those of the whole ensemble: the one of its members and zoom."""
        key = (stage.members_before, stage.view_places[0])
        return next(i for i, s in enumerate(self._stages) if (s.members_before, s.view_places[0]) == key)

    def _devices(self, stage: Stage) -> int:
        return max(1, len(getattr(self._stages[self._place(stage)].forward, "replicas", ())))


class PacedForward:
    """A stage's network under the clock; copies on several devices are paced together."""

    def __init__(self, pacer: ImagePacer, stage: Stage) -> None:
        self._pacer, self._stage = pacer, stage
        copies: Sequence[Forward] = getattr(stage.forward, "replicas", ())
        self.replicas = [PacedForward(pacer, replace(stage, forward=copy)) for copy in copies]

    def note_blank(self, tiles: int, size: int) -> None:
        """Tiles that were left out; raises OutOfTimeError."""
        self._pacer.blank(self._stage, tiles, size)

    def __call__(self, images_NHWC: np.ndarray) -> np.ndarray:
        """Tiles to values; raises OutOfTimeError."""
        return self._pacer.batch(self._stage, images_NHWC)
