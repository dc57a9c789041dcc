"""`histofold simulate --weights DIR`: a fake hidden set through the packaged kernel, as Kaggle would run it."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from tqdm import tqdm

from histofold.commands.kernel import write_kernel
from histofold.commands.options import parse_options
from histofold.competitions.base import Competition
from histofold.competitions.check import check_submission
from histofold.competitions.registry import get_competition
from histofold.core.faults import Fault, InputError
from histofold.kaggle.simulate.files import FakeKaggle, image_folder, lay_out, write_hidden
from histofold.kaggle.simulate.plan import HiddenImage, HiddenOptions, Look, plan_hidden
from histofold.kaggle.simulate.run import SUBMISSION, HostLimits, watch_kernel
from histofold.kaggle.simulate.verdict import Verdict, judge
from histofold.schema.atomic import write_atomically
from histofold.schema.manifest import load_manifest
from histofold.synth.drawing.slide import SlideSpec, SyntheticSlide
from histofold.synth.drawing.tissue import draw_stain
from histofold.synth.hubmap_2022.options import HPA, HUBMAP, SYNTH_ORGANS

KAGGLE_LIMIT_S = 9 * 3600.0
_LEAST_SHRINK, _REAL_SIDE_PX = 0.2, 3000
_MARK = "histofold-simulation"


@dataclass(frozen=True, kw_only=True)
class SimulateOptions:
    """Run the packaged kernel on a fake hidden set as Kaggle would; exit status 2 where the verdict is bad."""

    weights: Path
    """Folder that `histofold package` filled."""
    competition: str = ""
    """Name of the adapter; the manifest's where it is not given."""
    kernel: Path | None = None
    """kernel.py or its folder; else it is bundled from the package."""
    organs: tuple[str, ...] = ()
    """Organs of the images; all that the competition has where none are given."""
    limit_s: float = KAGGLE_LIMIT_S
    """Seconds that the kernel may take."""
    out: Path = Path("simulation")
    """Where all is written; an earlier simulation there is replaced."""
    hidden: Annotated[HiddenOptions, tyro.conf.arg(name="")] = field(default_factory=HiddenOptions)

    def __post_init__(self) -> None:
        if not 0 < self.limit_s < math.inf:
            raise ValueError(f"--limit-s {self.limit_s:g} must be a positive number of seconds")


def run(arguments: list[str]) -> int:
    """The verb."""
    options = parse_options(SimulateOptions, "simulate", arguments)
    manifest = load_manifest(options.weights)
    competition = get_competition(options.competition or manifest.competition)
    image_folder(competition.name)  # refuses one without a hidden set, before anything is done
    verdict = simulate(options, competition)
    print("\n".join(verdict.lines))
    print("\nVERDICT: " + ("FAIL" if verdict.bad else "PASS: complete, legal, within every limit"))
    for words in verdict.bad:
        print(f"  {words}")
    return 2 if verdict.bad else 0


def simulate(options: SimulateOptions, competition: Competition) -> Verdict:
    """Write the set, run the kernel on it, judge it; the log goes to OUT/kernel.log.

    Raises:
        InputError: If an option or the kernel is at fault, or OUT holds something else.
    """
    hidden = plan_hidden(options.hidden, looks_of(competition.name, options.organs))
    kernel = _kernel_script(options, competition.name)
    _begin(options.out)
    tree = lay_out(options.out / "kaggle", competition.slug, options.weights)
    draw = SlideDrawer(options.hidden.seed, options.hidden.largest)
    images = write_hidden(tree, competition, hidden, draw)
    for _ in tqdm(images, total=len(hidden.images), desc="fake hidden set", unit="image", dynamic_ncols=True):
        pass
    limits = HostLimits(seconds=options.limit_s)
    with tqdm(total=len(hidden.images), desc="kernel", unit="row", dynamic_ncols=True) as bar:
        watched = watch_kernel(kernel, tree, limits, lambda rows: bar.update(max(0, rows - bar.n)))
        bar.update(len(hidden.images) - bar.n if watched.status == 0 else 0)
    write_atomically(options.out / "kernel.log", watched.output)
    faults = submission_faults(tree, competition)
    return judge(watched, limits, competition, hidden, tree.working, faults)


def submission_faults(tree: FakeKaggle, competition: Competition) -> list[Fault]:
    """Every fault of the kernel's submission, by the rules of `histofold check submission`."""
    path = tree.working / SUBMISSION
    try:
        check_submission(path, tree.competition, competition.name)
    except InputError as error:
        return error.faults or [Fault(SUBMISSION, str(path), str(error), "see the log")]
    return []


def looks_of(competition: str, organs: tuple[str, ...] = ()) -> list[Look]:
    """Where the images of a competition come from, each organ from each source in turn.

    Raises:
        InputError: If an organ is not one of the competition's.
    """
    known = ("kidney",) if competition == "kidney_2020" else SYNTH_ORGANS
    unknown = [organ for organ in organs if organ not in known]
    if unknown:
        remedy = f"known ones: {', '.join(known)}"
        raise InputError([Fault(organ, "organs", f"no organ of {competition}", remedy) for organ in unknown])
    looks = []
    for source in (HUBMAP, HPA):
        for organ in organs or known:
            stain, pixel_size_um, _ = source.of_organ(organ)
            looks.append(Look(organ=organ, source=source.name, stain=stain, pixel_size_um=pixel_size_um))
    return looks[:1] if competition == "kidney_2020" else looks


class SlideDrawer:
    """Draws images of the set with the synthetic slides of the package.

    Args:
        seed: Of the set.
        largest: Longest side of its images in pixels; smaller ones hold smaller objects.
    """

    def __init__(self, seed: int, largest: int) -> None:
        self._seed = seed
        self._shrink = min(max(largest / _REAL_SIDE_PX, _LEAST_SHRINK), 1.0)

    def __call__(self, image: HiddenImage) -> np.ndarray:
        """The image as uint8 RGB (H, W, 3)."""
        key = (self._seed, image.number)
        spec = SlideSpec(
            key=key,
            organ=image.look.organ,
            stain=draw_stain(np.random.default_rng(key), image.look.stain),
            shape_hw=image.shape_hw,
            pixel_size_um=image.look.pixel_size_um,
            shrink=self._shrink,
        )
        return SyntheticSlide(spec).whole().image_HWC


def _kernel_script(options: SimulateOptions, competition: str) -> Path:
    """The kernel that is asked for, else one that is bundled now."""
    if options.kernel is None:
        return write_kernel(competition, options.out / "kernel", False, "owner/weights")
    path = options.kernel / "kernel.py" if options.kernel.is_dir() else options.kernel
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
