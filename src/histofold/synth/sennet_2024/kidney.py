"""The anatomy of a synthetic kidney in micrometres: what it fills, and the branching tubes in it.

A tree serves tips spread over the tissue. Where it branches, its tips are parted in two, and each branch is as wide as
its tips ask for by Murray's law, r0^3 = r1^3 + r2^3 (C. D. Murray, "The physiological principle of minimum work",
1926): the cube of a radius is the number of tips times the cube of a tip's. Voxels know nothing of this: the same
kidney can be cut at any voxel size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TIP_UM, CALYX_UM = 70.0, 150.0
"""Radii of the thinnest vessels and of the thinnest tubes of the collecting system."""
TIPS_PER_MM3 = 1.1
"""Of each of the two trees: arteries and veins."""
_AXES = np.array(
    (0.62, 0.43, 0.43)
)  # half axes as shares of the extent (z, y, x): the first and last slice hold tissue
_CORTEX = 0.3  # its thickness as a share of the half axes
_SINUS = 0.72  # its centre on the x axis, and below its size, as shares of the half axes
_SINUS_SIZE = np.array((0.55, 0.3, 0.42))
_CURVE_POINTS = 5
_REACH = 0.55  # how far towards the middle of its tips a vessel goes before it branches
_CLOTTED = 0.08


@dataclass(frozen=True, kw_only=True)
class Branch:
    """A tube from where it leaves its parent to where it branches or ends."""

    points: np.ndarray
    """Its curved axis, (P, 3): z, y, x in um."""
    radius_um: float
    """With its wall."""
    parent: int
    """The place of the branch that it leaves, -1 of a trunk."""
    tips: int
    """How many tips it serves."""
    clotted: bool = False
    """Whether blood is left in it, which is bright."""


@dataclass(frozen=True, kw_only=True)
class Kidney:
    """One kidney, in um."""

    extent_um: np.ndarray
    """Of the box around it (z, y, x)."""
    vessels: tuple[Branch, ...]
    """Arteries, then veins; parents before their children."""
    calyces: tuple[Branch, ...]
    """The collecting system: hollow as vessels are, wider, without a wall, and none of them."""

    @property
    def centre_um(self) -> np.ndarray:
        """Its middle (z, y, x)."""
        return self.extent_um / 2

    @property
    def half_axes_um(self) -> np.ndarray:
        """Of the ellipsoid that it is, (z, y, x)."""
        return self.extent_um * _AXES

    @property
    def cortex_um(self) -> float:
        """Thickness of the cortex."""
        return float(_CORTEX * self.half_axes_um[1:].min())

    def depth_um(self, places_3: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
        """How deep places (z, y, x) that broadcast lie below the surface, about; negative outside."""
        shares = zip(places_3, self.centre_um, self.half_axes_um, strict=True)
        outwards = np.sqrt(sum(((place - centre) / half) ** 2 for place, centre, half in shares))
        return np.asarray((1 - outwards) * self.half_axes_um[1:].min())

    def sinus(self, places_3: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
        """Below 1 in the sinus, where the vessels enter and fat lies around them."""
        shares = zip(places_3, self.sinus_um, self.half_axes_um * _SINUS_SIZE, strict=True)
        return np.asarray(np.sqrt(sum(((place - centre) / half) ** 2 for place, centre, half in shares)))

    @property
    def sinus_um(self) -> np.ndarray:
        """The middle of the sinus (z, y, x)."""
        return self.centre_um + np.array((0, 0, _SINUS)) * self.half_axes_um


def grow_kidney(rng: np.random.Generator, extent_um: tuple[float, float, float]) -> Kidney:
    """A kidney that about fills a box."""
    kidney = Kidney(extent_um=np.array(extent_um), vessels=(), calyces=())
    count = max(8, round(TIPS_PER_MM3 * float(np.prod(kidney.extent_um / 1000)) / 2))
    vessels: list[Branch] = []
    for side in (-1, 1):
        root = kidney.centre_um + kidney.half_axes_um * np.array((0.12 * side, 0.13 * side, 1.05))
        tips_N3 = _places_within(rng, kidney, count, (0.05, 0.85))
        vessels += _grow_tree(rng, root, tips_N3, TIP_UM * (1.15 if side > 0 else 1), len(vessels))
    root = kidney.centre_um + kidney.half_axes_um * np.array((0, -0.3, 1.05))
    calyces = _grow_tree(rng, root, _places_within(rng, kidney, 7, (0.45, 0.7)), CALYX_UM, 0)
    return Kidney(extent_um=kidney.extent_um, vessels=tuple(vessels), calyces=tuple(calyces))


def _places_within(rng: np.random.Generator, kidney: Kidney, count: int, depths: tuple[float, float]) -> np.ndarray:
    """Places (N, 3) in the box whose depth lies between shares of the greatest."""
    found, deepest = np.zeros((0, 3)), float(kidney.half_axes_um[1:].min())
    while len(found) < count:
        drawn_N3 = rng.random((4 * count, 3)) * kidney.extent_um
        shares = kidney.depth_um((drawn_N3[:, 0], drawn_N3[:, 1], drawn_N3[:, 2])) / deepest
        found = np.concatenate([found, drawn_N3[(shares > depths[0]) & (shares < depths[1])]])
    return found[:count]


def _grow_tree(
    rng: np.random.Generator, root_3: np.ndarray, tips_N3: np.ndarray, tip_um: float, first: int
) -> list[Branch]:
    """The branches of one tree, parents first.

    Args:
        rng: Draws how it is parted and bent.
        root_3: Where it begins.
        tips_N3: Where it ends.
        tip_um: Radius of its tips.
        first: The place that its trunk gets.
    """
    branches: list[Branch] = []
    waiting = [(root_3, np.array((0.0, 0.0, -1.0)), tips_N3, -1)]
    while waiting:
        start, heading, tips, parent = waiting.pop()
        end = tips[0] if len(tips) == 1 else start + _REACH * (tips.mean(axis=0) - start)
        points = _curve(start, heading, end)
        clotted = rng.random() < _CLOTTED
        radius_um = tip_um * len(tips) ** (1 / 3)
        branches.append(Branch(points=points, radius_um=radius_um, parent=parent, tips=len(tips), clotted=clotted))
        if len(tips) > 1:
            place, onwards = first + len(branches) - 1, _unit(points[-1] - points[-2])
            waiting += [(end, onwards, part, place) for part in _parted(rng, tips)]
    return branches


def _curve(start: np.ndarray, heading: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Points (P, 3) of an arc that leaves in a direction and arrives at a place."""
    bend = start + 0.35 * float(np.linalg.norm(end - start)) * heading
    along = np.linspace(0, 1, _CURVE_POINTS)[:, None]
    return np.asarray((1 - along) ** 2 * start + 2 * along * (1 - along) * bend + along**2 * end)


def _parted(rng: np.random.Generator, tips_N3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tips parted in two across the axis that they spread most along, unequally as vessels branch."""
    centred = tips_N3 - tips_N3.mean(axis=0)
    order = np.argsort(centred @ np.linalg.eigh(centred.T @ centred)[1][:, -1], kind="stable")
    cut = int(np.clip(round(len(tips_N3) * rng.uniform(0.3, 0.7)), 1, len(tips_N3) - 1))
    return tips_N3[order[:cut]], tips_N3[order[cut:]]


def _unit(vector: np.ndarray) -> np.ndarray:
    return np.asarray(vector / (np.linalg.norm(vector) + 1e-9))


def unlabelled_branches(rng: np.random.Generator, branches: tuple[Branch, ...], share: float) -> frozenset[int]:
    """Places of branches that an annotator missed: whole ends of trees, about a share of all branches."""
    small = [place for place, branch in enumerate(branches) if branch.tips <= 6]
    missed: set[int] = set()
    for start in rng.permutation(np.array(small)).tolist() if share > 0 else []:
        if len(missed) >= share * len(branches):
            break
        missed.add(start)
        for place in range(start, len(branches)):
            if branches[place].parent in missed:
                missed.add(place)
    return frozenset(missed)
