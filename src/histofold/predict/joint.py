"""Ensembles whose members see an image in different ways: at other scales, in other tiles, with other colours.

Every part predicts the image at its own scale; the parts meet at the original size, row band by row band, so that no
map of the whole image is ever held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from histofold.predict.ensemble import Ensemble
from histofold.predict.tiled import Forward
from histofold.schema.manifest import Manifest
from histofold.schema.views import views_by_zoom


@dataclass(frozen=True)
class Stage:
    """One way to see an image.

    Attributes:
        forward: Tiles of it to values.
        manifest: Scale, tiles and batch.
        share: Part in the average; the shares of all stages add up to 1.
        members_before: Members of the ensemble that come before those of this stage.
        view_places: Place of each of its views among those of its part.
    """

    forward: Forward
    manifest: Manifest
    share: float = 1.0
    members_before: int = 0
    view_places: tuple[int, ...] = (0,)

    def passes(self, members: int, views: int) -> int:
        """Forward passes of a tile when only so many members and views of the whole work; 0 where none is of here."""
        if not isinstance(self.forward, Ensemble):
            return 1
        count = max(0, min(len(self.forward.models), members - self.members_before))
        return count * sum(place < views for place in self.view_places)

    def at_level(self, members: int, views: int) -> tuple[Forward, int]:
        """What is left of the stage at such a level, at least one member and view, and its passes."""
        if not isinstance(self.forward, Ensemble):
            return self.forward, 1
        count = max(1, min(len(self.forward.models), members - self.members_before))
        names = tuple(n for n, place in zip(self.forward.views, self.view_places, strict=True) if place < views)
        names = names or self.forward.views[:1]
        if (count, names) == (len(self.forward.models), self.forward.views):
            return self.forward, count * len(names)
        return self.forward.first_members(count).with_views(names), count * len(names)


@dataclass(frozen=True)
class JointPart:
    """Members of one preprocessing and the manifest that tells how they see images."""

    ensemble: Ensemble
    manifest: Manifest


@dataclass(frozen=True)
class JointEnsemble:
    """All members of all packages."""

    parts: tuple[JointPart, ...]

    @property
    def members(self) -> int:
        """Number of members."""
        return sum(len(part.ensemble.models) for part in self.parts)

    @property
    def views(self) -> int:
        """Most views of a part."""
        return max(len(part.ensemble.views) for part in self.parts)

    def at_level(self, members: int, views: int) -> JointEnsemble:
        """The first members alone, each with its first views alone."""
        kept, left = [], members
        for part in self.parts:
            count = min(left, len(part.ensemble.models))
            left -= count
            if count:
                ensemble = part.ensemble.first_members(count).with_views(part.ensemble.views[:views])
                kept.append(replace(part, ensemble=ensemble))
        return JointEnsemble(tuple(kept))

    def stages(self) -> list[Stage]:
        """The ways in which the image is seen: each part, at each zoom of its views."""
        total = sum(sum(part.ensemble.weights) for part in self.parts)
        stages: list[Stage] = []
        before = 0
        for part in self.parts:
            share = sum(part.ensemble.weights) / total
            stages += ensemble_stages(part.ensemble, part.manifest, share, before)
            before += len(part.ensemble.models)
        return stages


def ensemble_stages(ensemble: Ensemble, manifest: Manifest, share: float = 1.0, members_before: int = 0) -> list[Stage]:
    """An ensemble at each zoom of its views."""
    stages = []
    for zoom, views in views_by_zoom(ensemble.views).items():
        preprocessing = manifest.preprocessing.zoomed(zoom)
        seen = replace(manifest, preprocessing=preprocessing, views=views)
        part = share * len(views) / len(ensemble.views)
        places = tuple(ensemble.views.index(view) for view in views)
        stages.append(Stage(ensemble.with_views(views), seen, part, members_before, places))
    return stages


def stages_of(forward: Forward | JointEnsemble | Sequence[Stage], manifest: Manifest) -> list[Stage]:
    """The stages of whatever predicts: an ensemble, several, or any function of tiles."""
    if isinstance(forward, JointEnsemble):
        return forward.stages()
    if isinstance(forward, Ensemble):
        return ensemble_stages(forward, manifest)
    return [Stage(forward, manifest)] if callable(forward) else list(forward)


def mean_bands(
    streams: Sequence[tuple[float, Iterator[tuple[int, np.ndarray]]]],
) -> Iterator[tuple[int, np.ndarray]]:
    """The weighted mean of several streams of row bands of one image, cut where any of them is cut.

    Args:
        streams: (share, bands) each, the bands partitioning the same rows from top to bottom, values float32 (K, h, W).

    Yields:
        (first row, float32 (K, h, W)), valid until the next is asked for.

    Raises:
        ValueError: If the streams give different numbers of classes, or end at different rows.
    """
    held: list[np.ndarray | None] = [None] * len(streams)
    row = 0
    while True:
        for place, (_, bands) in enumerate(streams):
            rest = held[place]
            while rest is None or rest.shape[1] == 0:
                following = next(bands, None)
                if following is None:
                    break
                rest = following[1]
            held[place] = rest
        parts = [part for part in held if part is not None and part.shape[1]]
        if not parts:
            return
        if len(parts) < len(streams) or len({len(part) for part in parts}) > 1:
            raise ValueError("the parts of the ensemble give different classes or different rows")
        height = min(part.shape[1] for part in parts)
        mean_KHW = np.zeros((len(parts[0]), height, parts[0].shape[2]), np.float32)
        for (share, _), part in zip(streams, parts, strict=True):
            mean_KHW += np.float32(share) * part[:, :height]
        yield row, mean_KHW
        row += height
        held = [part[:, height:] for part in parts]
