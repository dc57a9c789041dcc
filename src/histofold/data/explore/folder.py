"""A whole folder at a glance: the facts of every slide, near-duplicates among them, and what deserves a look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tqdm import tqdm

from histofold.competitions.base import Competition
from histofold.core.faults import ImageError, InputError
from histofold.core.rle.runs import Masks, class_runs
from histofold.data.contents import true_objects
from histofold.data.duplicates import DuplicatePair, cluster_pairs, find_duplicates
from histofold.data.explore.notices import Notice, find_notices, folder_notices, table_notices, volume_notices
from histofold.data.explore.outlines import polygon_dice
from histofold.data.explore.slides import SlideFacts, label_facts, slide_facts, with_objects
from histofold.data.tiles.masks import any_class
from histofold.imaging.slide import Slide, open_sample
from histofold.schema.sample import Sample


@dataclass(frozen=True)
class Exploration:
    """What was seen of a folder."""

    facts: Sequence[SlideFacts] = ()
    """Of each slide, in the order in which they were seen."""
    pairs: Sequence[DuplicatePair] = ()
    """Near-duplicates."""
    notices: Sequence[Notice] = ()
    """What deserves a look."""

    @property
    def clusters(self) -> dict[str, str]:
        """Cluster of each image that has a near-duplicate, as `cluster_pairs` names it."""
        return cluster_pairs((pair.first, pair.second) for pair in self.pairs)


@dataclass
class Explorer:
    """Gathers facts slide by slide; keeps no pixels but a small fingerprint of each."""

    competition: Competition
    """The adapter that gave the samples."""
    facts: list[SlideFacts] = field(default_factory=list)
    """So far."""
    polygon_dices: dict[str, float] = field(default_factory=dict)
    """Agreement of outlines and run lengths by id, so far."""
    class_pixels: dict[str, int] = field(default_factory=dict)
    """Labelled pixels of each class, so far."""
    notices: list[Notice] = field(default_factory=list)
    """What could not be read beside the slides, so far."""

    def look(self, sample: Sample, slide: Slide, target: Masks) -> None:
        """Take a slide with its labels; decodes every pixel.

        Raises:
            ImageError: If the slide cannot be decoded.
        """
        runs = any_class(target)
        self._count_classes(target)
        self._keep(sample, slide_facts(sample, slide, runs))
        try:
            agreement = polygon_dice(self.competition, sample, runs)
        except InputError as error:
            self.notices.append(Notice(kind="outlines", ids=(sample.id,), text=str(error)))
            return
        if agreement is not None:
            self.polygon_dices[sample.id] = agreement

    def look_at_labels(self, sample: Sample, target: Masks) -> None:
        """Take labels whose image is not there."""
        self._count_classes(target)
        self._keep(sample, label_facts(sample, any_class(target)))

    def _keep(self, sample: Sample, fact: SlideFacts) -> None:
        objects = true_objects(self.competition, sample)
        self.facts.append(fact if objects is None else with_objects(fact, objects))

    def _count_classes(self, target: Masks) -> None:
        for name, runs in zip(self.competition.classes, class_runs(target), strict=True):
            self.class_pixels[name] = self.class_pixels.get(name, 0) + runs.area

    def finish(self) -> Exploration:
        """Compare the slides with each other and draw the conclusions."""
        if self.competition.task == "volumes":
            return Exploration(self.facts, (), [*self.notices, *volume_notices(self.facts)])
        prints = {fact.sample.id: fact.fingerprint for fact in self.facts if fact.fingerprint is not None}
        pairs = find_duplicates(prints)
        unused = tuple(name for name, pixels in self.class_pixels.items() if not pixels)
        if unused and any(self.class_pixels.values()):
            self.notices.append(Notice(kind="unused class", ids=unused, text="no image has a pixel of it"))
        found = find_notices(self.facts, pairs, self.polygon_dices)
        return Exploration(self.facts, pairs, [*self.notices, *found, *folder_notices(self.facts, pairs)])


def explore_folder(competition: Competition, samples: Sequence[Sample]) -> Exploration:
    """Look at every slide of a folder without faults; images that cannot be decoded are left to whoever cuts them.

    Args:
        competition: The adapter that gave the samples, its notices still those of these.
        samples: All training samples.
    """
    explorer = Explorer(competition, notices=table_notices(competition.notices))
    for sample in tqdm(samples, desc="look at slides", unit="image", dynamic_ncols=True):
        try:
            with open_sample(sample) as slide:
                explorer.look(sample, slide, competition.target(sample))
        except ImageError:
            continue
    return explorer.finish()
