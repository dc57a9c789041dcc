"""A fake hidden set through a packaged kernel, as Kaggle would run it, and the verdict on what came of it."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

from tqdm import tqdm

from histofold.competitions.base import Competition
from histofold.competitions.check import check_submission
from histofold.competitions.registry import get_competition
from histofold.core.faults import Fault, InputError
from histofold.kaggle.bundle.kernels import write_kernel
from histofold.kaggle.simulate.files import Draw, FakeKaggle, image_folder, write_hidden
from histofold.kaggle.simulate.plan import HiddenSet, SimulateRequest, plan_hidden
from histofold.kaggle.simulate.run import HostLimits, Watched, watch_kernel
from histofold.schema.files import write_atomically
from histofold.schema.manifest import load_manifest

_LOGGED_FALLBACK = re.compile(r"image (?P<id>.*) keeps its fallback row: (?P<why>.*)")
_LOGGED_TOTALS = re.compile(r"summary: .*?(?P<fallbacks>\d+) fallback.*")
_LOGGED_LATE = "the clock ran out"
_SHOWN_FAULTS = 20
_STOPPED_WORDS = {
    "time": "it passed the time limit and was ended: Kaggle says Timeout",
    "memory": "it passed the memory limit and was ended: Kaggle says Exceeded Allowed Compute",
    "disk": "it passed the disk limit and was ended: Kaggle says Exceeded Allowed Compute",
}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of a run."""

    bad: tuple[str, ...]
    """What would cost points or the submission, in words; none: it is good."""
    fallbacks: Mapping[str, tuple[str, str]]
    """For each image with a fallback row, why, and what was planted in it (empty: nothing unreadable)."""
    lines: tuple[str, ...]
    """The tables, for people."""

    def __str__(self) -> str:
        end = "FAIL" if self.bad else "PASS: complete, legal, within every limit"
        return "\n".join([*self.lines, "", f"VERDICT: {end}", *(f"  {words}" for words in self.bad)])


def judge(
    watched: Watched,
    limits: HostLimits,
    competition: Competition,
    hidden: HiddenSet,
    tree: FakeKaggle,
    faults: Sequence[Fault],
) -> Verdict:
    """Judge a run by what was seen of it, what was planted, and the faults of its submission."""
    bad = []
    if watched.stopped:
        bad.append(_STOPPED_WORDS[watched.stopped])
    elif watched.status:
        bad.append(f"it ended with status {watched.status}: Kaggle says Notebook Threw Exception")
    bad += [f"the submission is at fault: {fault}" for fault in faults[:_SHOWN_FAULTS]]
    if len(faults) > _SHOWN_FAULTS:
        bad.append(f"and {len(faults) - _SHOWN_FAULTS} more faults of the submission")
    planted = hidden.unreadable()
    found = fallback_rows(watched.output, competition, hidden, tree.answer)
    fallbacks = {key: (why, planted.get(key, "")) for key, why in found.items()}
    lost = [key for key, (_, kind) in fallbacks.items() if not kind]
    if lost:
        bad.append(f"{len(lost)} images that can be read have fallback rows: {', '.join(lost[:10])}")
    totals = _LOGGED_TOTALS.search(watched.output)
    if totals is not None and int(totals["fallbacks"]) > len(found):
        bad.append(f"the log counts {totals['fallbacks']} fallback rows, of which {len(found)} are known by name")
    silent = [key for key in planted if key not in fallbacks]
    if silent:
        bad.append(f"{len(silent)} images that nobody can read have rows of a network: {', '.join(silent[:10])}")
    if tree.journal.exists() and not watched.stopped:
        bad.append("the journal was left behind: not every row was decided")
    return Verdict(bad=tuple(bad), fallbacks=fallbacks, lines=tuple(_table(watched, limits, hidden, fallbacks)))


def submission_faults(tree: FakeKaggle, competition: Competition) -> list[Fault]:
    """Every fault of the kernel's submission, by the rules of `histofold check submission`."""
    path = tree.answer
    try:
        check_submission(path, tree.competition, competition.name)
    except InputError as error:
        return error.faults or [Fault(path.name, str(path), str(error), "see the log")]
    return []


def fallback_rows(output: str, competition: Competition, hidden: HiddenSet, submission: Path) -> dict[str, str]:
    """For each image with a fallback row, why: what the log says, else that its row is the fallback row.

    Where empty rows are right too, only the log tells them apart.
    """
    logged: dict[str, str] = {}
    for line in output.splitlines():
        match = _LOGGED_FALLBACK.search(line)
        if match:
            logged.setdefault(match["id"], match["why"])
    same = set()
    if competition.never_empty and submission.is_file():
        with submission.open(newline="", encoding="utf-8") as stream:
            same = {row[0] for row in csv.reader(stream) if row[1:] == [competition.fallback_row]}
    # One pixel has one mask that is not empty: the fallback row.
    same -= {image.id for image in hidden.images if image.shape_hw == (1, 1)}
    ids = [image.id for image in hidden.images]
    other = _LOGGED_LATE if _LOGGED_LATE in output else "not in the log: it never came to this image"
    return {key: logged.get(key, other) for key in ids if key in logged or key in same}


def _table(
    watched: Watched, limits: HostLimits, hidden: HiddenSet, fallbacks: Mapping[str, tuple[str, str]]
) -> list[str]:
    oddities = sum(1 for image in hidden.images if image.fault) - len(hidden.unreadable())
    lines = [
        f"{len(hidden.images)} images: {len(hidden.unreadable())} that nobody can read, {oddities} odd ones; "
        f"{', '.join(hidden.faults) or 'nothing wrong with the tables'}",
        "",
        f"{'stage':<42}{'seconds':>9}",
        *(f"{name:<42}{seconds:>9.1f}" for name, seconds in watched.stages.items()),
        "",
        f"{'used':<12}{'peak':>12}{'allowed':>12}",
        f"{'time':<12}{watched.seconds:>10.1f} s{limits.seconds:>10.0f} s",
        f"{'memory':<12}{watched.memory_bytes / 1e9:>9.2f} GB{limits.memory_bytes / 1e9:>9.0f} GB",
        f"{'disk':<12}{watched.disk_bytes / 1e9:>9.3f} GB{limits.disk_bytes / 1e9:>9.0f} GB",
    ]
    totals = _LOGGED_TOTALS.search(watched.output)
    if totals is not None:
        lines += ["", f"the kernel's own {totals[0]}"]
    if fallbacks:
        lines += ["", f"{'fallback row':<14}{'planted':<16}why the kernel gave it"]
        lines += [
            f"{key[:12]:<14}{kind or 'NO':<16}{shorten(why, 160, placeholder=' ...')}"
            for key, (why, kind) in fallbacks.items()
        ]
    return lines


_MARK = "histofold-simulation"


def simulate(
    request: SimulateRequest,
    looks_of: Callable[[str, tuple[str, ...]], list[tuple[str, str, str, float]]],
    slides: Callable[[int, int], Draw],
) -> Verdict:
    """Write the set, run the kernel on it, judge it; the log goes to OUT/kernel.log.

    Args:
        request: What the user asks for.
        looks_of: Where the images of a competition and of some organs come from.
        slides: What draws the images, for the seed of the set and its longest side.

    Raises:
        InputError: If an option or the kernel is at fault, or OUT holds something else.
    """
    manifest = load_manifest(request.weights)
    competition = get_competition(request.competition or manifest.competition)
    image_folder(competition.name)  # refuses one without a hidden set, before anything is done
    hidden = plan_hidden(request.hidden, looks_of(competition.name, request.organs))
    kernel = _kernel_script(request, competition.name)
    _begin(request.out)
    tree = FakeKaggle.create(request.out / "kaggle", competition, request.weights)
    images = write_hidden(tree, competition, hidden, slides(request.hidden.seed, request.hidden.largest))
    for _ in tqdm(images, total=len(hidden.images), desc="fake hidden set", unit="image", dynamic_ncols=True):
        pass
    limits = HostLimits(seconds=request.limit_s)
    with tqdm(total=len(hidden.images), desc="kernel", unit="row", dynamic_ncols=True) as bar:
        watched = watch_kernel(kernel, tree, limits, lambda rows: bar.update(max(0, rows - bar.n)))
        bar.update(len(hidden.images) - bar.n if watched.status == 0 else 0)
    write_atomically(request.out / "kernel.log", watched.output)
    return judge(watched, limits, competition, hidden, tree, submission_faults(tree, competition))


def _kernel_script(request: SimulateRequest, competition: str) -> Path:
    """The kernel that is asked for, else one that is bundled now."""
    if request.kernel is None:
        return write_kernel(competition, request.out / "kernel", False, "owner/weights")
    path = request.kernel / "kernel.py" if request.kernel.is_dir() else request.kernel
    if not path.is_file() or path.suffix != ".py":
        rule = "no such script"
        raise InputError([Fault(path.name, str(path), rule, "write it: `histofold kernel C` (no --notebook)")])
    return path


def _begin(out: Path) -> None:
    """Take an earlier simulation away; refuse a folder that holds another tree under the same name.

    Raises:
        InputError: If OUT/kaggle is not ours.
    """
    tree, mark = out / "kaggle", out / _MARK
    if tree.exists() and not mark.exists():
        rule = "it exists and is no earlier simulation"
        raise InputError([Fault(tree.name, str(tree), rule, "give another --out, or move it away")])
    shutil.rmtree(tree, ignore_errors=True)
    write_atomically(mark, "This folder is replaced by `histofold simulate`.\n")
