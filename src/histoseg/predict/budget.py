"""The clock: what a pass over a megapixel takes, and what to leave out when time runs short."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

FEWEST_BATCHES = 2  # before as many are measured nothing is left out


class OutOfTimeError(Exception):
    """The budget allows nothing more."""


@dataclass
class Budget:
    """Decides before each batch how many members and views can be afforded.

    Time is forecast as seconds of a forward pass for each megapixel, times the passes that are left, plus what an image
    costs beside its passes (opening, reading that the passes do not hide, cleaning, writing).

    Attributes:
        limit_s: Seconds that the whole run may take; None means no limit.
        reserve_s: How long before the limit all must be written; half of a limit that is shorter than twice that.
        started: Clock reading at the start, in seconds.
    """

    limit_s: float | None
    reserve_s: float = 300.0
    started: float = field(default_factory=time.monotonic)
    batches: int = 0
    forward_s: float = 0.0
    forward_work: float = 0.0
    image_s: float = 0.0
    images: int = 0
    image_megapixels: float = 0.0
    grid_megapixels: float = 0.0
    seen_megapixels: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def left_s(self) -> float:
        """Seconds until everything must be written."""
        if self.limit_s is None:
            return float("inf")
        return self.limit_s - min(self.reserve_s, 0.5 * self.limit_s) - (time.monotonic() - self.started)

    def record_batch(self, seconds: float, work: float) -> None:
        """Note what a batch took.

        The first batch does not count: it pays for warming up and compiling.

        Args:
            seconds: Seconds of the forward passes; of several devices side by side their share of the time.
            work: Megapixels times passes.
        """
        with self.lock:
            self.batches += 1
            if self.batches > 1:
                self.forward_s += seconds
                self.forward_work += work

    def record_image(self, seconds: float, megapixels: float, seen: float | None = None) -> None:
        """Note what an image took beside its forward passes; the first one does not count for that.

        Args:
            seconds: Seconds.
            megapixels: Megapixels of its tiles.
            seen: Megapixels of those that went through the network (blank ones may not); None means all.
        """
        with self.lock:
            self.images += 1
            self.grid_megapixels += megapixels
            self.seen_megapixels += megapixels if seen is None else seen
            if self.images > 1:
                self.image_s += max(0.0, seconds)
                self.image_megapixels += megapixels

    def seen_share(self) -> float:
        """Share of the tiles that went through the network so far."""
        return self.seen_megapixels / self.grid_megapixels if self.grid_megapixels > 0 else 1.0

    def rate(self) -> float | None:
        """Seconds a megapixel and pass, None while too little is measured."""
        if self.batches <= FEWEST_BATCHES or self.forward_work <= 0:
            return None
        return self.forward_s / self.forward_work

    def beside_s(self, images_left: int, megapixels_left: float) -> float:
        """Forecast of what the images left cost beside their passes.

        By images and by megapixels, the lower of both: small images measured first would make large ones look
        impossible by the one, large ones small ones by the other.
        """
        if self.images <= 1:
            return 0.0
        by_images = self.image_s / (self.images - 1) * images_left
        return min(by_images, self.image_s / max(self.image_megapixels, 1e-9) * megapixels_left)

    def affordable(
        self, work: Callable[[int, int], float], members: int, views: int, beside_s: float = 0.0
    ) -> tuple[int, int]:
        """Members and views that the time left allows.

        Views go first, since they cost most and give least; then members. One pass always stays.

        Args:
            work: Megapixels times passes that are left with so many members and views.
            members: Most members.
            views: Most views.
            beside_s: Seconds that are needed beside the passes.

        Raises:
            OutOfTimeError: If nothing is left of the time.
        """
        left_s = self.left_s()
        if left_s <= 0:
            raise OutOfTimeError
        rate = self.rate()
        if rate is None or left_s == float("inf"):
            return members, views
        levels = [*((members, count) for count in range(views, 0, -1)), *((m, 1) for m in range(members - 1, 0, -1))]
        return next((level for level in levels if rate * work(*level) + beside_s <= left_s), levels[-1])
