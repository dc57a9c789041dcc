"""Change files that strangers may have written, and read them: each gives a value, or a fault of ours in words.

    python benchmarks/fuzz.py [TARGET ...] [--runs 20000] [--seed 0] [--out benchmarks/out/fuzz] [--coverage]

The targets are those of tests/fuzz_targets.py. Without --coverage seeds are changed at random; with it atheris
(https://github.com/google/atheris; not among the requirements, as it needs no part in any other run) decides by the
lines of ours that a change reaches. A read that takes more than 10 s, or more than 1 GiB of further memory, counts as
broken. What broke, and by which content, stands in OUT.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import re
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

MOST_S = 10
MOST_BYTES = 1 << 30


class Findings:
    """What broke, each kind once: the error and the line of ours that it came from."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.kinds, self.executions = folder, set(), 0

    def add(self, name: str, content: bytes, told: str) -> None:
        places = re.findall(r'File ".*?/(\w+/\w+\.py)", line (\d+)', told)
        kind = f"{told.strip().splitlines()[-1][:80]} at {':'.join(places[-1]) if places else '?'}"
        if kind in self.kinds:
            return
        self.kinds.add(kind)
        self.folder.mkdir(parents=True, exist_ok=True)
        stem = f"{name.replace(' ', '_')}-{hashlib.sha256(content).hexdigest()[:8]}"
        (self.folder / f"{stem}.bin").write_bytes(content)
        (self.folder / f"{stem}.txt").write_text(told)
        print(f"  {name}: {kind}", flush=True)


def limit_time_and_memory() -> None:
    """Have a read that takes too long raise TimeoutError, and one that takes too much memory MemoryError."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError(f"more than {MOST_S} s")

    signal.signal(signal.SIGALRM, late)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MOST_BYTES, hard))
    logging.disable()


def at_random(name: str, runs: int, seed: int, out: Path) -> Findings:
    """Read a target's seeds and changes of them."""
    from fuzz_targets import broken_promises, fuzz_targets

    fuzz_targets()
    limit_time_and_memory()
    found = Findings(out)
    with tempfile.TemporaryDirectory() as folder:
        for content, told in broken_promises(name, runs, seed, Path(folder), lambda: signal.alarm(MOST_S)):
            found.add(name, content, told)
    signal.alarm(0)
    found.executions = runs
    return found


def by_coverage(name: str, runs: int, seed: int, out: Path) -> None:
    """Have atheris change a target's seeds; the process ends with the last run."""
    import atheris

    from fuzz_targets import broken_promise, fuzz_targets

    target, found = fuzz_targets()[name], Findings(out)
    limit_time_and_memory()
    corpus = out / "corpus" / name.replace(" ", "_")
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed_content in enumerate(target.seeds):
        (corpus / f"seed{number}").write_bytes(seed_content)
    scratch = Path(tempfile.mkdtemp())

    def once(content: bytes) -> None:
        signal.alarm(MOST_S)
        told = broken_promise(target, content, scratch)
        signal.alarm(0)
        if told:
            found.add(name, content, told)

    words = out / f"{name.replace(' ', '_')}.dict"
    texts = [word.encode("utf-8", "replace") for word in (*target.words, "NaN", "1e999", "-1") if 0 < len(word) < 60]
    words.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in text) + '"\n' for text in texts))
    options = [f"-runs={runs}", f"-seed={seed + 1}", "-max_len=16384", f"-dict={words}", "-print_final_stats=1"]
    print(f"{name}:", flush=True)
    atheris.Setup([sys.argv[0], *options, "-verbosity=0", str(corpus)], once)
    atheris.Fuzz()


def compiled_modules() -> list[str]:
    """Modules of ours with functions for numba, which compiles nothing that atheris has changed."""
    root = Path(__file__).resolve().parents[1] / "src"
    paths = [path for path in root.rglob("*.py") if "@njit" in path.read_text(encoding="utf-8")]
    return [".".join(path.relative_to(root).with_suffix("").parts) for path in paths]


def in_fork(work: Callable[[], None]) -> int:
    """The exit status of work in a process of its own."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/fuzz"))
    parser.add_argument("--coverage", action="store_true")
    arguments = parser.parse_args()
    if arguments.coverage:
        import atheris

        with atheris.instrument_imports(include=["histofold"], exclude=compiled_modules()):
            import fuzz_targets
    else:
        import fuzz_targets
    kinds = 0
    for name in arguments.targets or fuzz_targets.fuzz_targets():
        started = time.process_time()
        if arguments.coverage:  # in a fork: atheris ends its process
            kinds += in_fork(partial(by_coverage, name, arguments.runs, arguments.seed, arguments.out)) != 0
            continue
        found = at_random(name, arguments.runs, arguments.seed, arguments.out)
        kinds += len(found.kinds)
        seconds = time.process_time() - started
        print(f"{name}: {found.executions} reads in {seconds:.1f} s, {len(found.kinds)} kinds broken", flush=True)
    return int(kinds > 0)


if __name__ == "__main__":
    raise SystemExit(main())
