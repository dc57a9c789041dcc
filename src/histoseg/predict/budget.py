"""The clock: seconds per megapixel measured, and what to leave out when time runs short."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from histoseg.core.log import logger

FEWEST_IMAGES = 3  # before as many are measured nothing is left out


@dataclass
class Budget:
    """Decides before each image how much can be afforded: all, one view, one member, or nothing more.

    Attributes:
        limit_s: Seconds that the whole run may take; None means no limit.
        reserve_s: How long before the limit all must be written.
        started: Clock reading at the start, in seconds.
    """

    limit_s: float | None
    reserve_s: float = 300.0
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    megapixel_passes: float = 0.0
    images: int = 0

    def left_s(self) -> float:
        """Seconds until everything must be written."""
        if self.limit_s is None:
            return float("inf")
        return self.limit_s - min(self.reserve_s, 0.5 * self.limit_s) - (time.monotonic() - self.started)

    def record(self, seconds: float, megapixels: float, passes: int) -> None:
        """Note what an image took: `passes` = members x views, megapixels as the network forwards them in each.

        The first image does not count: it pays for warming up and compiling.
        """
        self.images += 1
        if self.images > 1:
            self.seconds += seconds
            self.megapixel_passes += megapixels * passes

    def affordable(self, megapixels_left: float, members: int, views: int) -> tuple[int, int]:
        """Members and views that the time left allows for the images left; (0, 0) when it is over.

        Views go first, since they cost most and give least; then members.
        """
        left_s = self.left_s()
        if left_s <= 0:
            return 0, 0
        if self.images < FEWEST_IMAGES or self.megapixel_passes == 0 or left_s == float("inf"):
            return members, views
        pass_s = self.seconds / self.megapixel_passes * megapixels_left
        for fewer_members, fewer_views in ((members, views), *((m, 1) for m in range(members, 0, -1))):
            if pass_s * fewer_members * fewer_views <= left_s:
                break
        if (fewer_members, fewer_views) != (members, views):
            logger.warning(
                "%.0f s are left for work of %.0f s: going on with %d of %d members and %d of %d views",
                left_s,
                pass_s * members * views,
                fewer_members,
                members,
                fewer_views,
                views,
            )
        return fewer_members, fewer_views
