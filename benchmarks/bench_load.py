"""Load: many small images, large images, long tables, many shards: whether memory stays flat and the rate stable.

The network costs nothing (it gives one channel of the tile), so that what is measured is everything else: reading,
rows, the journal, the clock. Each line is a process of its own. `python benchmarks/bench_load.py --help` for sizes.
"""

from __future__ import annotations

import argparse
import csv
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np


def resident_mb() -> float:
    """Memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def write_folder(root: Path, count: int, side: int) -> None:
    """A plain folder of one picture under many names."""
    (root / "images").mkdir()
    cells = max(8, side // 100)  # as many runs as masks of structures have
    coarse_HWC = np.random.default_rng(0).integers(0, 255, (cells, cells, 3), np.uint8)
    picture_HWC = cv2.resize(coarse_HWC, (side, side), interpolation=cv2.INTER_NEAREST)
    first = root / "picture.png"
    cv2.imwrite(str(first), picture_HWC, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    for number in range(count):
        (root / "images" / f"{number:06d}.png").symlink_to(first)


def images(root: Path, count: int, side: int) -> str:
    """Predict a folder; the first and the last tenth of the rows."""
    import torch
    from safetensors.torch import save_file

    from histofold.predict.stages import stages_of
    from histofold.predict.submission import predictor
    from histofold.predict.submission.journal import SubmissionJournal
    from histofold.predict.submission.shards import predict_folder
    from histofold.schema.manifest import Manifest, Member, file_sha256, manifest_json
    from histofold.schema.preprocessing import Preprocessing

    class FirstChannel(torch.nn.Module):
        def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
            return images_NCHW[:, :1]

    write_folder(root, count, side)
    save_file({"none": torch.zeros(1)}, root / "none.safetensors")
    member = Member(
        file="none.safetensors", sha256=file_sha256(root / "none.safetensors"), architecture="unet", arguments={}
    )
    spec = Preprocessing(scale_mode="physical", target_pixel_size_um=1.0, whole_size=-(-side // 32) * 32)
    manifest = Manifest(
        competition="folder", preprocessing=spec, members=(member,), tile=512, halo=32, views=("identity",)
    )
    (root / "manifest.json").write_text(manifest_json(manifest))
    predictor.load_ensemble = lambda *_, **__: stages_of(FirstChannel(), manifest)
    seen, add = [], SubmissionJournal.add

    def recorded(journal, *arguments, **options):
        add(journal, *arguments, **options)
        seen.append((time.process_time(), resident_mb()))

    SubmissionJournal.add = recorded
    predict_folder(root, root, root / "rows.csv")
    tenth = max(1, count // 10)
    first = tenth / (seen[tenth][0] - seen[0][0])
    last = tenth / (seen[-1][0] - seen[-1 - tenth][0])
    return f"{last / first:.2f} | {seen[tenth][1]:.0f} | {seen[-1][1]:.0f} | {1000 / last:.1f} ms of processor an image"


def table(root: Path, count: int) -> str:
    """Check a submission of many rows against its folder's tables."""
    from histofold.competitions.check import check_submission

    (root / "test_images").mkdir()
    names = ["id", "organ", "data_source", "img_height", "img_width", "pixel_size", "tissue_thickness"]
    row = " ".join(f"{10 * run + 1} 3" for run in range(80))
    for name, head, rest in (
        ("test.csv", names, ["kidney", "HPA", "3000", "3000", "0.4", "4"]),
        ("sample_submission.csv", ["id", "rle"], [row]),
    ):
        with (root / name).open("w", newline="") as stream:
            csv.writer(stream).writerows([head, *([str(number), *rest] for number in range(count))])
    before, started = resident_mb(), time.process_time()
    faults = check_submission(root / "sample_submission.csv", root)
    cost_us, peak = 1e6 * (time.process_time() - started) / count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert not faults, faults[0]
    return f"- | {before:.0f} | {peak / 1024:.0f} (peak) | {cost_us:.0f} us of processor a row"


def shards(root: Path, count: int) -> str:
    """Plan the shards of many slides, as each process of an archive does before its first one."""
    from histofold.predict.submission.shards import WholeRun, plan_shards
    from histofold.schema.manifest import Manifest
    from histofold.schema.preprocessing import Preprocessing
    from histofold.schema.sample import Sample

    before, started = resident_mb(), time.process_time()
    manifest = Manifest(competition="folder", preprocessing=Preprocessing(target_pixel_size_um=1.0))
    samples = tuple(Sample(id=f"slide_{n:07d}", image_path=root / f"slide_{n:07d}.tiff") for n in range(count))
    planned = plan_shards(WholeRun("folder", ("id", "rle"), (manifest,), samples), max(1, count // 100))(0)
    cost_us = 1e6 * (time.process_time() - started) / count
    return f"- | {before:.0f} | {resident_mb():.0f} | {cost_us:.0f} us of processor a slide, {len(planned.ids)} a shard"


def merge(root: Path, count: int, each: int) -> str:
    """Merge shards of so many rows of 10 kB each."""
    from histofold.predict.submission.merge import merge_shards
    from histofold.predict.submission.shards import WholeRun, finish_shard, plan_shards
    from histofold.schema.files import csv_text
    from histofold.schema.manifest import Manifest
    from histofold.schema.preprocessing import Preprocessing
    from histofold.schema.sample import Sample

    manifest = Manifest(competition="folder", preprocessing=Preprocessing(target_pixel_size_um=1.0))
    samples = tuple(Sample(id=f"slide_{n:07d}", image_path=root / "none") for n in range(count * each))
    plan = plan_shards(WholeRun("folder", ("id", "rle"), (manifest,), samples), count)
    paths, row = [root / f"{shard_id}.csv" for shard_id in range(count)], "10 20 " * 1700
    for shard_id, path in enumerate(paths):
        planned = plan(shard_id)
        path.write_text(csv_text(planned.columns, [(key, row) for key in planned.ids]))
        finish_shard(path, planned, {}, ())
    before, started = resident_mb(), time.process_time()
    merge_shards(paths, root / "all.csv")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cost_us = 1e6 * (time.process_time() - started) / len(samples)
    return f"- | {before:.0f} | {peak:.0f} (peak) | {cost_us:.0f} us of processor a row"


WORK = {"images": images, "table": table, "shards": shards, "merge": merge}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", type=int, default=10_000, help="images of 64 x 64")
    parser.add_argument("--large", type=int, default=500, help="images of 3000 x 3000")
    parser.add_argument("--rows", type=int, default=100_000, help="rows of a table")
    parser.add_argument("--slides", type=int, default=1_000_000, help="slides whose shards are planned")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        with tempfile.TemporaryDirectory() as folder:
            print(WORK[options.one[0]](Path(folder), *map(int, options.one[1:])))
        return
    print("| work | rate, last tenth / first | MB then | MB at the end | cost |\n|---|---|---|---|---|")
    work = [
        ("images", options.small, 64),
        ("images", options.large, 3000),
        ("table", options.rows),
        ("shards", options.slides),
        ("merge", 400, 200),
    ]
    for name, *sizes in work:
        words = [sys.executable, __file__, "--one", name, *map(str, sizes)]
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        print(f"| {name} {' x '.join(map(str, sizes))} | {done.stdout.strip()} |", flush=True)


if __name__ == "__main__":
    main()
