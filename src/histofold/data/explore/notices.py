"""What deserves a look but is no fault: the rules that turn facts about slides into notices.

The limits were set on synthetic folders, clean and with planted mistakes, and on real slides; the tests hold them to
folders of other seeds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from histofold.core.faults import Fault, listed_ids
from histofold.data.duplicates import DuplicatePair
from histofold.data.explore.comparison import MIN_COMPARED, RANKED, rank_slides, relative_likeness, usual_r2
from histofold.data.explore.slides import SlideFacts

MIN_BLANK_LABELLED = 0.001
"""Labelled glass, as a share of the image, that makes a notice."""
MIN_POLYGON_DICE = 0.95
"""Outlines and run lengths that agree less make a notice."""
MIN_SHIFT, MIN_SHIFT_GAIN, MIN_SHIFT_RATIO, MIN_SHIFTED_R2 = 0.015, 0.06, 1.2, 0.35
"""A shift (share of the longer side) makes a notice if it explains so much more of the labels, and enough of them."""
MIN_OTHER_RATIO, MIN_OTHER_GAIN, MIN_OTHER_R2 = 1.5, 0.05, 0.28
"""The same for another reading of the labels, which is a bolder claim."""
MIN_CONTINUITY_GAIN, MAX_CONTINUITY = 0.02, 0.97
"""Labels are read in the wrong order if the other order makes neighbouring lines so much more alike."""
MIN_RELATIVE_R2 = 0.25
"""Labels make a notice that follow their image less than this share of what the upper quartile of the organ does."""
STRAY_LIKENESS, TURNED_LIKENESS, SHIFTED_LIKENESS = 0.2, 0.5, 0.8
"""Where good labels of an organ are so much like each other, those that are as alike as this share of it are neither
stray nor turned nor shifted: what fits better elsewhere does so by chance."""
PLAIN_R2 = 0.5
"""Labels that would fit so well when they are moved or turned need no others to compare with."""
MIN_INVERTED, MIN_INVERTED_BORDER = 0.5, 0.9
"""Labels look inverted that cover more than these shares of the image and of its border: no real slide's do."""
MIN_ENCLOSED = 3.0
"""Thin labels that enclose so many times their own area look like outlines that were not filled."""
MAX_CORNER = 0.55
"""Labels of a whole folder that nowhere reach this share of a side look as if drawn at another scale."""
BLACK_BELOW = 18.0
"""Images that nowhere reach this value of 255 look black; 12 bits stored in 16 end at 16."""
MAX_DEVIATION = 15.0
"""A slide makes a notice that lies further from its organ's median, in robust standard deviations."""

SUSPICIOUS = tuple(name for name in RANKED if name != "blank_fraction")
"""Facts that make a notice: how much glass is around the tissue is nobody's mistake."""


@dataclass(frozen=True, kw_only=True)
class Notice:
    """Something that deserves a look."""

    kind: str
    """In a few words; notices of a kind belong together."""
    ids: tuple[str, ...]
    """The samples concerned."""
    text: str
    """What was seen, in words."""
    shift_px: tuple[int, int] | None = None
    """For a shift (dy, dx) that would mend the labels, else None."""

    def __str__(self) -> str:
        """One line: ids, kind, text."""
        return f"{', '.join(self.ids)}: {self.kind}: {self.text}"


def table_notices(found: Iterable[Fault]) -> list[Notice]:
    """What an adapter noticed in the tables of a folder."""
    return [
        Notice(kind="tables", ids=(each.id,), text=f"{Path(each.file).name}: {each.rule}; {each.remedy}")
        for each in found
    ]


def find_notices(
    facts: Sequence[SlideFacts],
    pairs: Iterable[DuplicatePair] = (),
    polygon_dices: Mapping[str, float] | None = None,
) -> list[Notice]:
    """All notices of a data set.

    Args:
        facts: Of each slide.
        pairs: Near-duplicates.
        polygon_dices: Agreement of outlines and run lengths by id, where there are outlines.

    Returns:
        Those of single slides in the order of the slides, then those of pairs.
    """
    usual, alike = usual_r2(facts), relative_likeness(facts)
    notices: list[Notice] = []
    for fact in facts:
        notices += blank_notices(fact) + black_notices(fact)
        own = alike.get(fact.sample.id)
        reading = reading_notices(fact, own)
        notices += reading or shift_notices(fact, own) or _stray_notices(fact, usual, own)
        agreement = (polygon_dices or {}).get(fact.sample.id)
        if agreement is not None and not agreement >= MIN_POLYGON_DICE:
            text = f"outlines and run lengths have a Dice of {agreement:.2f}, less than {MIN_POLYGON_DICE}"
            notices.append(_slide_notice(fact, "outlines", text))
        notices += extent_notices(fact)
    notices += [
        _outlier(fact, name, deviation)
        for fact, name, deviation in rank_slides(facts, SUSPICIOUS)
        if deviation > MAX_DEVIATION
    ]
    return notices + _pair_notices(facts, pairs)


def _slide_notice(fact: SlideFacts, kind: str, text: str, shift_px: tuple[int, int] | None = None) -> Notice:
    return Notice(kind=kind, ids=(fact.sample.id,), text=text, shift_px=shift_px)


def folder_notices(facts: Sequence[SlideFacts], pairs: Iterable[DuplicatePair] = ()) -> list[Notice]:
    """What only all labels together show: they are one drawing, or were drawn at another scale.

    Args:
        facts: Of each slide.
        pairs: Near-duplicates, which may well have the same labels.
    """
    twice, equal = {key for pair in pairs for key in (pair.first, pair.second)}, defaultdict(list)
    for fact in facts:
        if 0 < fact.mask_fraction < 1 and fact.sample.id not in twice:
            equal[fact.digest, fact.shape_hw].append(fact.sample.id)
    notices = [
        Notice(kind="same labels", ids=tuple(ids), text=f"{len(ids)} images have the same labels, to the pixel")
        for ids in equal.values()
        if len(ids) > 1
    ]
    extents = {fact.sample.id: fact.extent_yx for fact in facts if fact.objects}
    if len(extents) >= MIN_COMPARED and max(map(max, extents.values())) < MAX_CORNER:
        text = "all labels lie in the upper left of their images: were they drawn at a smaller scale, or written in um?"
        notices.append(Notice(kind="another scale", ids=tuple(extents), text=text))
    return notices


def volume_notices(facts: Sequence[SlideFacts]) -> list[Notice]:
    """Those of slices: black ones, and ones without a label among labelled ones.

    Slices side by side look alike, and have labels alike, as they should; no tissue of theirs is stained; and where a
    volume begins and ends there may be no vessel.
    """
    notices = [notice for fact in facts for notice in black_notices(fact)]
    volumes: dict[str, list[SlideFacts]] = defaultdict(list)
    for fact in sorted(facts, key=lambda one: one.sample.image_path.name):
        volumes[fact.sample.source].append(fact)
    for volume in volumes.values():
        labelled = [place for place, fact in enumerate(volume) if fact.objects] or [0]
        empty = [fact.sample.id for fact in volume[labelled[0] : labelled[-1]] if not fact.objects]
        if empty:
            text = f"not one pixel is labelled of {listed_ids(empty)}, between slices that are labelled"
            notices.append(Notice(kind="no labels", ids=(empty[0],), text=text))
    return notices


def blank_notices(fact: SlideFacts) -> list[Notice]:
    """Labels on the glass around the tissue."""
    if not fact.blank_labelled >= MIN_BLANK_LABELLED:
        return []
    pixels = round(fact.blank_labelled * fact.shape_hw[0] * fact.shape_hw[1])
    text = f"about {pixels:,} px ({fact.blank_labelled:.1%} of the image) of the glass around the tissue are labelled"
    return [_slide_notice(fact, "blank labelled", text)]


def black_notices(fact: SlideFacts) -> list[Notice]:
    """Images of which nothing is to be seen, as of 12 bits that are stored in 16 and do not say so."""
    if not fact.brightest < BLACK_BELOW:
        return []
    text = (
        f"the image looks black: its brightest value is {fact.brightest:.0f} of 255; 12 bits stored in 16? Then save "
        "it as 8 bits, or state it: the TIFF's tag MaxSampleValue, 4095 (OME: SignificantBits)"
    )
    return [_slide_notice(fact, "black image", text)]


def extent_notices(fact: SlideFacts) -> list[Notice]:
    """Labels of nothing, of everything, or of what lies around the objects."""
    if fact.objects == 0:
        return [_slide_notice(fact, "no labels", "not one pixel is labelled")]
    if fact.enclosed > MIN_ENCLOSED:
        text = f"thin lines are labelled that enclose {fact.enclosed:.0f} times their own area: outlines, not filled?"
        return [_slide_notice(fact, "outlines alone", text)]
    remedy = "where background has another value than 0, write mask_values in folder.toml"
    if fact.mask_fraction == 1:
        return [_slide_notice(fact, "all labelled", f"every pixel is labelled; {remedy}")]
    if fact.mask_fraction > MIN_INVERTED and fact.border_labelled > MIN_INVERTED_BORDER:
        text = (
            f"{fact.mask_fraction:.0%} of the image and {fact.border_labelled:.0%} of its border are labelled: "
            f"mask and background look exchanged; {remedy}"
        )
        return [_slide_notice(fact, "inverted", text)]
    return []


def reading_notices(fact: SlideFacts, alike: float | None = None) -> list[Notice]:
    """Labels that fit when they are read otherwise: in the other order, transposed, mirrored or turned.

    Args:
        fact: Of the slide.
        alike: As `relative_likeness` gives it; None where nothing is usual.
    """
    given, other = fact.continuity
    differs = fact.shape_hw[0] != fact.shape_hw[1]
    if differs and given < MAX_CONTINUITY and other - given > MIN_CONTINUITY_GAIN:
        text = (
            "the labels are torn into stripes, and whole when their run lengths are read row by row: neighbouring "
            f"lines then overlap by {other:.0%}, and as read by {given:.0%}"
        )
        return [_slide_notice(fact, "order of the runs", text)]
    fit = fact.fit
    if fit is None or not fit.other_r2:
        return []
    name, r2 = max(fit.other_r2.items(), key=lambda item: item[1])
    if r2 < PLAIN_R2 and alike is not None and alike >= TURNED_LIKENESS:
        return []
    if r2 < MIN_OTHER_R2 or r2 < MIN_OTHER_RATIO * fit.r2 + MIN_OTHER_GAIN:
        return []
    text = f"the labels would follow the colours of the image better {name}: {_r2_words(r2, fit.r2)}"
    return [_slide_notice(fact, "order of the runs" if name == "row by row" else "turned labels", text)]


def shift_notices(fact: SlideFacts, alike: float | None = None) -> list[Notice]:
    """Labels that lie beside what they label; `alike` as in `reading_notices`."""
    fit = fact.fit
    if fit is None or fit.best_r2 < MIN_SHIFTED_R2:
        return []
    if fit.best_r2 < PLAIN_R2 and alike is not None and alike >= SHIFTED_LIKENESS:
        return []
    dy, dx = (round(share * side) for share, side in zip(fit.shift_yx, fact.shape_hw, strict=True))
    length = float(np.hypot(dy, dx)) / max(fact.shape_hw)
    gain, ratio = fit.best_r2 - fit.r2, fit.best_r2 / max(fit.r2, 1e-9)
    if length < MIN_SHIFT or gain < MIN_SHIFT_GAIN or ratio < MIN_SHIFT_RATIO:
        return []
    text = (
        f"the labels seem to lie beside what they label: moved by about {abs(dy)} rows {'down' if dy > 0 else 'up'} "
        f"and {abs(dx)} columns to the {'right' if dx > 0 else 'left'} they would follow the colours of the image "
        f"better: "
        f"{_r2_words(fit.best_r2, fit.r2)}"
    )
    return [_slide_notice(fact, "mask shift", text, shift_px=(dy, dx))]


def _r2_words(then: float, now: float) -> str:
    return f"colours and textures then explain {then:.0%} of them, and {now:.0%} as they are"


def _stray_notices(fact: SlideFacts, usual: Mapping[str, float], alike: float | None) -> list[Notice]:
    """Labels that do not follow their image, as those of another image do not; `alike` as in `reading_notices`."""
    organ = fact.sample.organ if fact.sample.organ in usual else ""
    good = usual.get(organ)
    if fact.fit is None or good is None:
        return []
    least = MIN_RELATIVE_R2 * good if alike is not None else MIN_RELATIVE_R2 / 2 * good
    if fact.fit.r2 >= least or (alike is not None and alike >= STRAY_LIKENESS):
        return []
    text = (
        "the labels do not lie on what the other slides' labels lie on: colours and textures explain "
        f"{fact.fit.r2:.0%} of them, and {good:.0%} of good ones{f' in {organ}' if organ else ''}; they may be of "
        "another image"
    )
    return [_slide_notice(fact, "stray labels", text)]


def _outlier(fact: SlideFacts, name: str, deviation: float) -> Notice:
    value = getattr(fact, name)
    words = f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    text = (
        f"its {RANKED[name]} is {words}, {deviation:.0f} times as far from the other slides' as theirs usually differ"
    )
    return _slide_notice(fact, "suspicious slide", text)


def _pair_notices(facts: Sequence[SlideFacts], pairs: Iterable[DuplicatePair]) -> list[Notice]:
    """Near-duplicates, and whether their groups differ."""
    groups = {fact.sample.id: fact.sample.group or fact.sample.id for fact in facts}
    notices = []
    for pair in pairs:
        same = groups.get(pair.first) == groups.get(pair.second)
        where = "of one group" if same else f"of groups {groups.get(pair.first)} and {groups.get(pair.second)}"
        text = f"the same tissue twice, {where} (correlation {pair.correlation:.2f}): they must share a fold"
        notices.append(Notice(kind="near-duplicates", ids=(pair.first, pair.second), text=text))
    return notices
