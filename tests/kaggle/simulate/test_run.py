"""A kernel as Kaggle runs it: what it must do without, which limits end it, and the verdict on it."""

import sys

import pytest

from histofold.competitions.hubmap_2022 import Hubmap2022
from histofold.core.faults import Fault
from histofold.kaggle.simulate.files import FakeKaggle
from histofold.kaggle.simulate.plan import HiddenOptions, HiddenSet, Look, plan_hidden
from histofold.kaggle.simulate.run import HostLimits, Watched, folder_bytes, watch_kernel
from histofold.kaggle.simulate.simulate import judge

pytestmark = pytest.mark.slow

LOOK = Look(organ="lung", source="HPA", stain="dab", pixel_size_um=0.4)
LIMITS = HostLimits(seconds=60.0)


@pytest.fixture
def watch(tmp_path):
    """Runs a script as a kernel."""
    (tmp_path / "weights").mkdir()
    tree = FakeKaggle.create(tmp_path / "kaggle", Hubmap2022(), tmp_path / "weights")

    def run(text, limits=LIMITS):
        kernel = tmp_path / "kernel.py"
        kernel.write_text(text)
        return watch_kernel(kernel, tree, limits), tree

    return run


def test_it_runs_alone_in_the_working_folder_with_its_limit(watch):
    watched, tree = watch(
        "import os, socket, sys, time\n"
        "root = os.environ['HISTOFOLD_KAGGLE_ROOT']\n"
        "assert os.getcwd() == os.path.join(root, 'working'), os.getcwd()\n"
        "assert os.path.isdir(root + '/input/datasets/owner/weights')\n"
        "assert __name__ == '__main__' and sys.flags.isolated\n"
        "for name in ('histofold', 'imagecodecs', 'segmentation_models_pytorch'):\n"
        "    try:\n"
        "        __import__(name)\n"
        "    except ModuleNotFoundError as error:\n"
        "        print(error)\n"
        "    else:\n"
        "        raise SystemExit(name + ' is there')\n"
        "for host in ('127.0.0.1', 'localhost'):\n"
        "    try:\n"
        "        socket.create_connection((host, 80))\n"
        "    except OSError as error:\n"
        "        print(error)\n"
        "open('submission.csv', 'w').write('x' * 1000)\n"
        "time.sleep(0.5)\n"
        "print('limit', os.environ['HISTOFOLD_LIMIT_S'])\n"
    )
    assert watched.status == 0, watched.output
    assert watched.output.count("is not in Kaggle's image") == 3
    assert watched.output.count("no network here") == 2
    assert "limit 60.0" in watched.output
    assert watched.stopped == ""
    assert watched.disk_bytes == folder_bytes(tree.working) == 1000
    assert list(watched.stages) == ["start, imports, the legal file", "tables read, weights found and checked"]
    assert sum(watched.stages.values()) <= watched.seconds
    if sys.platform == "linux":
        assert 1e6 < watched.memory_bytes < 1e9


@pytest.mark.parametrize(
    ("text", "limits", "stopped"),
    [
        ("import time\nprint('begun', flush=True)\ntime.sleep(60)", HostLimits(seconds=3.0), "time"),
        (
            "import time\nprint('begun', flush=True)\nheld = b'1' * 300_000_000\ntime.sleep(60)",
            HostLimits(seconds=50.0, memory_bytes=200_000_000),
            "memory",
        ),
        (
            "import time\nprint('begun', flush=True)\nopen('a', 'wb').write(b'1' * 3_000_000)\ntime.sleep(60)",
            HostLimits(seconds=50.0, disk_bytes=2_000_000),
            "disk",
        ),
    ],
)
def test_what_passes_a_limit_is_ended(watch, text, limits, stopped):
    watched, _ = watch(text, limits)
    assert watched.stopped == stopped
    assert watched.status == -9
    assert watched.seconds < 50
    assert "begun" in watched.output


def test_a_crash_is_told_with_its_traceback(watch):
    watched, _ = watch("1 / 0")
    assert watched.status == 1
    assert "ZeroDivisionError" in watched.output


HIDDEN = plan_hidden(HiddenOptions(images=4, smallest=20, largest=40, faults=0.0), [LOOK])
IDS = [image.id for image in HIDDEN.images]


def verdict(tmp_path, rows, watched, hidden=HIDDEN, faults=()):
    (tmp_path / "submission.csv").write_text("id,rle\n" + "".join(f"{key},{row}\n" for key, row in rows.items()))
    return judge(watched, LIMITS, Hubmap2022(), hidden, FakeKaggle(tmp_path, tmp_path, tmp_path), faults)


def test_a_good_run_is_good(tmp_path):
    good = verdict(tmp_path, dict.fromkeys(IDS, "3 4"), Watched(seconds=5.0, stages={"all": 5.0}))
    assert good.bad == ()
    assert good.fallbacks == {}
    assert any("5.0 s" in line for line in good.lines)


def test_a_fallback_row_is_bad_unless_it_was_planted(tmp_path):
    rows = {**dict.fromkeys(IDS, "3 4"), IDS[1]: "1 1", IDS[2]: "1 1"}
    log = f"WARNING image {IDS[1]} keeps its fallback row: ImageError: cut off: badly\n"
    found = verdict(tmp_path, rows, Watched(output=log))
    assert found.fallbacks[IDS[1]] == ("ImageError: cut off: badly", "")
    assert found.bad == (f"2 images that can be read have fallback rows: {IDS[1]}, {IDS[2]}",)
    images = tuple(
        image if image.id in (IDS[0], IDS[3]) else image.__class__(**{**vars(image), "fault": "text"})
        for image in HIDDEN.images
    )
    assert verdict(tmp_path, rows, Watched(output=log), HiddenSet(images=images, faults=())).bad == ()
    guessed = verdict(tmp_path, dict.fromkeys(IDS, "3 4"), Watched(), HiddenSet(images=images, faults=()))
    assert "nobody can read" in guessed.bad[0]


@pytest.mark.parametrize(
    ("watched", "words"),
    [
        (Watched(status=1), "Threw Exception"),
        (Watched(status=-9, stopped="time"), "Timeout"),
        (Watched(status=-9, stopped="memory"), "Exceeded Allowed Compute"),
        (Watched(status=-9, stopped="disk"), "Exceeded Allowed Compute"),
        (
            Watched(output="INFO summary: 4 images in 3 s: 2 predicted, 0 degraded, 0 taken over, 2 fallback"),
            "counts 2",
        ),
    ],
)
def test_other_bad_ends_are_told_in_words(tmp_path, watched, words):
    bad = verdict(tmp_path, dict.fromkeys(IDS, "3 4"), watched).bad
    assert len(bad) == 1
    assert words in bad[0]


def test_faults_of_the_submission_and_a_journal_left_behind_are_bad(tmp_path):
    (tmp_path / "submission.csv.journal").write_text("{}\n")
    faults = [Fault(str(n), "submission.csv", "malformed rle", "encode it anew") for n in range(30)]
    bad = verdict(tmp_path, dict.fromkeys(IDS, "3 4"), Watched(), faults=faults).bad
    assert sum("malformed rle" in words for words in bad) == 20
    assert any("10 more" in words for words in bad)
    assert any("journal" in words for words in bad)
