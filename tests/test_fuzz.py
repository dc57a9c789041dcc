"""Files that strangers may have written, changed at random: each gives a value, or a fault of ours in words.

`benchmarks/fuzz.py` does so for long. A content that broke the promise once stands below.
"""

import random

import pytest

from fuzz_targets import APERIO, broken_promise, broken_promises, changed, fuzz_targets

pytestmark = pytest.mark.slow
READS = 150


@pytest.mark.parametrize("name", fuzz_targets())
def test_changed_files_are_read_or_refused_in_words(tmp_path, name):
    broken = [told for _, told in broken_promises(name, READS, 0, tmp_path)]
    assert broken == []


@pytest.mark.parametrize("name", fuzz_targets())
def test_the_seeds_are_read_and_most_changes_are_not_them(tmp_path, name):
    target, draws = fuzz_targets()[name], random.Random(0)
    for number, seed in enumerate(target.seeds):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / target.name).write_bytes(seed)
        target.read(folder / target.name)
    assert sum(changed(target, draws) not in target.seeds for _ in range(50)) > 25


ANSWERS = ((b"0.5", b"9" * 400), (b"18", b"9" * 400), (b"18", b"{}"), (b"18", b"[1, 2]"))
"""What may stand for a score, or a side of a box."""
BROKE_ONCE = {
    "manifest": (b"[" * 5000, b'{"halo": ' + b"9" * 400 + b"}", b'{"min_area_um2": ' + b"9" * 400 + b"}"),
    "experiment": (b"[optim]\nlr = " + b"9" * 400, b"a = " + b"1" * 5000, b"a = " + b"[" * 5000),
    "run record": (b'{"seconds": ' + b"9" * 400 + b"}",),
    "journal": (b'{"id": "a"}\n' + b"[" * 5000 + b"\n",),
    "weights header": ((2000).to_bytes(8, "little") + b"[" * 2000,),
    "answers": tuple(fuzz_targets()["answers"].seeds[0].replace(*pair) for pair in ANSWERS),
    "aperio": (APERIO.replace(b"UTF-8", b"UF-8"),),
}
"""What ended in an error of Python's own before it was mended."""


@pytest.mark.parametrize("name", BROKE_ONCE)
def test_what_broke_once_is_refused(tmp_path, name):
    for content in BROKE_ONCE[name]:
        assert broken_promise(fuzz_targets()[name], content, tmp_path) == ""
