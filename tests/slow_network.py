"""A clock that is too short: a network that naps for what it sees, and images of which one alone takes too long."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numpy as np
import tifffile
import torch
from safetensors.torch import save_file
from torch import nn

from histofold.competitions.hubmap_2022 import Hubmap2022
from histofold.core.rle.runs import parse_rle
from histofold.predict.submission.runner import RunSummary, run_submission
from histofold.schema.manifest import Manifest, Member, file_sha256, manifest_json
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.sample import Sample

TILE = 64
PASSES = 4  # two members, two views
SMALL_TILES, SMALL_IMAGES = (2, 4), 12
GIANT_SHARE = 0.4  # of all the work


@contextmanager
def skipping_clock() -> Iterator[Callable[[float], None]]:
    """A clock that a nap pushes forward, so that it takes nobody's time; gives that nap, in place of `time.sleep`."""
    clock, skipped_s = time.monotonic, 0.0

    def nap(seconds: float) -> None:
        nonlocal skipped_s
        skipped_s += seconds

    def skipping() -> float:
        return clock() + skipped_s

    with mock.patch("time.monotonic", skipping):
        yield nap


class SleepyNet(nn.Module):
    """One convolution, and a nap for every pixel."""

    def __init__(self, seconds_per_pixel, nap):
        super().__init__()
        self.head = nn.Conv2d(3, 1, 1)
        self.seconds_per_pixel, self.nap = seconds_per_pixel, nap

    def forward(self, images_NCHW):
        self.nap(images_NCHW[:, 0].numel() * self.seconds_per_pixel)
        return self.head(images_NCHW)


@dataclass
class SlowRun:
    """A run of work that the clock does not allow."""

    summary: RunSummary
    seconds: float
    work_s: float
    giant_s: float
    faults: list[str] = field(default_factory=list)


def slow_package(folder: Path) -> tuple[Path, Manifest]:
    """Two members that differ, two views, tiles without overlap."""
    folder.mkdir()
    members = []
    for seed in range(2):
        torch.manual_seed(seed)
        path = folder / f"member{seed}.safetensors"
        save_file(SleepyNet(0, time.sleep).state_dict(), path)
        members.append(Member(file=path.name, sha256=file_sha256(path), architecture="unet"))
    manifest = Manifest(
        competition="hubmap_2022",
        preprocessing=Preprocessing(target_pixel_size_um=1.0),
        members=tuple(members),
        tile=TILE,
        halo=0,
        views=("identity", "hflip"),
        batch=2,
    )
    (folder / "manifest.json").write_text(manifest_json(manifest))
    return folder, manifest


def run_slowly(
    root: Path, clock_s: float, work_s: float, giant_place: int = 0, nap: Callable[[float], None] = time.sleep
) -> SlowRun:
    """Predict images that need `work_s` seconds of the network within `clock_s`; looks at every row of the file."""
    small = SMALL_TILES[0] * SMALL_TILES[1]
    small_s = (1 - GIANT_SHARE) * work_s / SMALL_IMAGES / small / PASSES
    side = round((GIANT_SHARE * work_s / PASSES / small_s) ** 0.5)
    shapes = [tuple(count * TILE for count in SMALL_TILES)] * SMALL_IMAGES
    shapes.insert(giant_place, (side * TILE, side * TILE))
    samples = []
    for number, shape_hw in enumerate(shapes):
        path = root / f"{number:03d}.tiff"
        image_HWC = np.random.default_rng(number).integers(0, 256, (*shape_hw, 3), np.uint8)
        tifffile.imwrite(path, image_HWC, photometric="rgb")
        samples.append(Sample(id=path.stem, image_path=path, pixel_size_um=1.0))
    package, out = slow_package(root / "weights"), root / "submission.csv"
    started = time.monotonic()
    build = "histofold.predict.submission.rows.MaskRows.build"
    with mock.patch(build, side_effect=lambda *_: SleepyNet(small_s / TILE**2, nap)):
        summary = run_submission(Hubmap2022(), samples, [package], out, clock_s)
    seconds = time.monotonic() - started
    tiles = SMALL_IMAGES * small + side**2
    slow = SlowRun(summary, seconds, tiles * PASSES * small_s, side**2 * PASSES * small_s)
    rows = [line.split(",") for line in out.read_text().splitlines()]
    if [row[0] for row in rows] != ["id", *(sample.id for sample in samples)]:
        slow.faults.append("the ids are not those of the samples")
    for (key, text), shape_hw in zip(rows[1:], shapes, strict=True):
        try:
            if parse_rle(text, shape_hw).area == 0:
                slow.faults.append(f"{key}: empty")
        except ValueError as error:
            slow.faults.append(f"{key}: {error}")
    return slow
