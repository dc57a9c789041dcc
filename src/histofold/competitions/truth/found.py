"""What was found of a plain folder's truth: kept, or read when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from histofold.core.faults import Fault, InputError, InputNotice
from histofold.core.rle.runs import Masks, Runs
from histofold.schema.sample import Sample

ONE_CLASS = ("ftu",)
"""The classes where nothing names any."""


@dataclass(kw_only=True)
class FoundTruth:
    """The truth of a folder's samples."""

    classes: tuple[str, ...] = ONE_CLASS
    """Names of the mask classes."""
    targets: dict[str, Masks] = field(default_factory=dict)
    """What was read already, by id."""
    readers: dict[str, Callable[[Sample], Masks]] = field(default_factory=dict)
    """What reads the others, by id."""
    ignored: dict[str, Runs] = field(default_factory=dict)
    """Pixels that neither training nor a score shall count, by id; of what `readers` read only once it was read."""
    faults: list[Fault] = field(default_factory=list)
    """What is wrong, as far as nothing was decoded; notices among them."""
    notices: list[InputNotice] = field(default_factory=list)
    """What deserves a look of what `readers` have read."""
    _read: set[str] = field(
        default_factory=set, init=False, repr=False
    )  # ids whose ignored pixels `readers` have found out

    def target(self, sample: Sample) -> Masks:
        """The truth of a sample, of each class where there are several.

        Raises:
            InputError: If its file cannot be used; without further faults where no truth was found at all.
        """
        if sample.id in self.targets:
            return self.targets[sample.id]
        if sample.id not in self.readers:
            raise InputError(f"{sample.id}: no truth was found: check the dataset first")
        masks = self.readers[sample.id](sample)
        self._read.add(sample.id)
        return masks

    def ignored_pixels(self, sample: Sample) -> Runs | None:
        """Pixels of a sample that do not count; None where there are none. Raises as `target`."""
        if sample.id not in self.targets and sample.id not in self._read:
            self.target(sample)
        return self.ignored.get(sample.id)
