"""An ensemble by name: the runs whose folds predict together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class JointRuns:
    """What `histofold package experiments/J.toml` packages; see `experiments/group_ensemble.toml`."""

    runs: tuple[str, ...]
    """Run folders, runs/A; every finished fold of each becomes a member."""
    shares: tuple[float, ...] = ()
    """Part of each run in the average, divided among its folds; none means that every member counts alike."""

    def __post_init__(self) -> None:
        if not self.runs or len(set(self.runs)) < len(self.runs):
            raise ValueError(f"runs={list(self.runs)}: name at least one run, and each of them once")
        if self.shares and (len(self.shares) != len(self.runs) or min(self.shares) <= 0):
            raise ValueError(
                f"shares={list(self.shares)}: write a positive number for each of the {len(self.runs)} runs"
            )
