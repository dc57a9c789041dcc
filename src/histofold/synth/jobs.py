"""Independent pieces of work, one a slide, in this process or in several."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from tqdm import tqdm

Job = TypeVar("Job")
Done = TypeVar("Done")


def run_jobs(
    work: Callable[[Job], Done], jobs: Sequence[Job], *, num_workers: int, progress: bool, description: str
) -> list[Done]:
    """Do every job and keep the order; a job that fails ends all.

    Args:
        work: A function that can be pickled where there are workers.
        jobs: Its arguments.
        num_workers: Spawned processes; 0 works in this one. A script that asks for some must hold its own work under
            `if __name__ == "__main__"`, since they import it again.
        progress: Show a progress bar.
        description: What stands before the bar.
    """

    def shown(results: Iterator[Done]) -> list[Done]:
        return list(tqdm(results, desc=description, unit="image", total=len(jobs), disable=not progress))

    if num_workers == 0 or len(jobs) < 2:
        return shown(map(work, jobs))
    workers = min(num_workers, len(jobs))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        return shown(pool.map(work, jobs))
