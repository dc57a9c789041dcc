"""A fake hidden set through a packaged kernel, as Kaggle would run it, and the verdict on what came of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from histofold.competitions.registry import get_competition
from histofold.core.faults import Fault, InputError
from histofold.kaggle.bundle.kernels import write_kernel
from histofold.kaggle.simulate.files import Draw, FakeKaggle, image_folder, write_hidden
from histofold.kaggle.simulate.plan import SimulateRequest, plan_hidden
from histofold.kaggle.simulate.run import HostLimits, watch_kernel
from histofold.kaggle.simulate.verdict import Verdict, judge, submission_faults
from histofold.schema.atomic import write_atomically
from histofold.schema.manifest import load_manifest

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
    tree = FakeKaggle.create(request.out / "kaggle", competition.slug, request.weights)
    images = write_hidden(tree, competition, hidden, slides(request.hidden.seed, request.hidden.largest))
    for _ in tqdm(images, total=len(hidden.images), desc="fake hidden set", unit="image", dynamic_ncols=True):
        pass
    limits = HostLimits(seconds=request.limit_s)
    with tqdm(total=len(hidden.images), desc="kernel", unit="row", dynamic_ncols=True) as bar:
        watched = watch_kernel(kernel, tree, limits, lambda rows: bar.update(max(0, rows - bar.n)))
        bar.update(len(hidden.images) - bar.n if watched.status == 0 else 0)
    write_atomically(request.out / "kernel.log", watched.output)
    return judge(watched, limits, competition, hidden, tree.working, submission_faults(tree, competition))


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
