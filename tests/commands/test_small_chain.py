"""A small project after the whole chain, and what may befall it.

Every file is emptied or cut in half: it is refused by name, or read again to the same result. Masks are mended, images
move away, the disk is full.
"""

import errno
import shutil

import cv2
import pytest

from histofold.commands.main import main
from histofold.schema.parse import to_toml
from small_datasets import draw, make_folder
from small_runs import TinyNet, small_experiment

pytestmark = pytest.mark.slow
VERBS = {
    "build": "build --data {0}/raw --out {0}/dataset --experiment {0}/small.toml --workers 1",
    "train": "train {0}/small.toml --runs {0}/runs --resume",
    "evaluate": "evaluate {0}/runs/small",
    "package": "package {0}/runs/small --out {0}/weights",
    "check": "check weights {0}/weights",
    "predict": "predict --weights {0}/weights --data {0}/raw --out {0}/s.csv",
}
READERS = {
    "dataset/dataset.json": ("train", "build"),
    "dataset/index.csv": ("train", "build"),
    "dataset/folds.csv": ("train",),
    "dataset/parts/p0.json": ("build",),
    "dataset/images/*": ("train", "build"),
    "dataset/masks/*": ("train", "build"),
    "runs/small/fold0/experiment.toml": ("evaluate", "train"),
    "runs/small/fold0/log.csv": ("train",),
    "runs/small/fold0/model.safetensors": ("package", "evaluate", "train"),
    "runs/small/fold1/run.json": ("train", "evaluate", "package"),
    "runs/small/fold1/state_*6.pt": ("train",),
    "runs/small/cleaning.json": ("package", "evaluate"),
    "runs/small/oof.csv": ("package", "evaluate"),
    "runs/small/oof_scores.jsonl": ("evaluate",),
    "runs/small/summary.json": ("package", "evaluate"),
    "runs/small/thresholds.json": ("package", "evaluate"),
    "weights/manifest.json": ("check", "predict", "package"),
    "weights/dataset-metadata.json": ("check",),
    "weights/small_fold0.safetensors": ("check", "predict"),
    "weights/*.whl": ("check",),
    "s.csv": ("predict",),
}
"""The verbs that read each file, one after the other until one refuses it; what mends it may come last."""
ALIKE = ("dataset/parts/*", "runs/small/fold[01]/*", "weights/*.safetensors")
"""Files of which one stands for all in `READERS`."""
WRITTEN_ONLY = ("runs/ledger.csv", ".folds.lock", "*.html", "*.png", "*.jpg")
"""What nothing of ours reads again."""
RESULTS = ("dataset/index.csv", "runs/small/fold0/model.safetensors", "runs/small/oof.csv", "s.csv")


@pytest.fixture(scope="module", autouse=True)
def tiny_nets():
    """Networks of a thousand weights, whatever the experiment names."""
    with pytest.MonkeyPatch.context() as patch:
        for place in ("train.run.build_network", "trust.oof.build_network", "predict.tuner.build_network"):
            patch.setattr(f"histofold.{place}", lambda *_: TinyNet())
        patch.setattr("histofold.predict.submission.rows.MaskRows.build", staticmethod(lambda *_: TinyNet()))
        yield


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project after the whole chain."""
    root = tmp_path_factory.mktemp("project")
    make_folder(root / "raw", {f"p{n}": draw(n) for n in range(6)})
    experiment = small_experiment(root / "dataset", train={"steps": 6, "save_every": 3})
    (root / "small.toml").write_text(to_toml(experiment))
    for verb, line in VERBS.items():
        assert main(line.format(root).split()) == 0, verb
    return root


@pytest.fixture
def moved(project, tmp_path):
    """It at another place: whatever it names by its old address is gone."""
    root = tmp_path / "moved"
    shutil.copytree(project, root)
    for path in (root / "small.toml", root / "dataset" / "dataset.json", *root.glob("runs/small/*/experiment.toml")):
        path.write_text(path.read_text().replace(str(project), "/gone/with/the/wind"))
    return root


def run(root, verb, *more):
    return main([*VERBS[verb].format(root).split(), *more])


def test_a_moved_project_goes_on_without_an_edit(moved, capsys):
    for verb in ("train", "evaluate", "package", "predict"):
        assert run(moved, verb) == 0, capsys.readouterr().err
    (moved / "raw").rename(moved / "slides")
    assert run(moved, "evaluate") == 2
    assert "its competition folder is not there" in capsys.readouterr().err
    assert run(moved, "evaluate", "--data.root", str(moved / "slides")) == 0
    assert run(moved, "train", "--data.root", str(moved / "slides")) == 0


def test_a_mended_mask_is_never_passed_over(moved, capsys):
    path = moved / "raw" / "masks" / "p1.png"
    mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(path), 255 - mask)
    for verb in ("train", "evaluate"):
        assert run(moved, verb) == 2
        assert "other masks: p1; build it anew: `python build_dataset.py --data" in capsys.readouterr().err
    assert run(moved, "build") == 0
    capsys.readouterr()
    assert run(moved, "train") == 2
    told = capsys.readouterr().err
    assert "was made of what has changed since: now there are other masks: p1" in told
    assert run(moved, "evaluate") == 2
    assert "fold0: " in (told := capsys.readouterr().err)
    assert "since it was trained there are other masks: p1; remove" in told
    before = (moved / "runs" / "small" / "oof.csv").read_text()
    shutil.rmtree(moved / "runs" / "small" / "fold0")
    shutil.rmtree(moved / "runs" / "small" / "fold1")
    assert run(moved, "train") == 0
    assert run(moved, "evaluate") == 0
    after = (moved / "runs" / "small" / "oof.csv").read_text()
    assert [a.split(",")[0] for a, b in zip(after.split(), before.split(), strict=True) if a != b].count("p1") == 1


def test_settings_that_changed_are_told_from_what_to_what(moved, capsys):
    assert run(moved, "train", "--optim.lr", "0.5", "--train.seed", "3") == 2
    told = capsys.readouterr().err
    assert "train.seed: 0 then, 3 now" in told
    assert "then, 0.5 now" in told


def test_an_incomplete_run_says_so_in_its_score_and_its_package(moved, capsys, caplog):
    shutil.rmtree(moved / "runs" / "small" / "fold1")
    assert run(moved, "evaluate") == 0
    assert "; incomplete, without the unfinished folds 1)" in capsys.readouterr().out
    assert run(moved, "package") == 0
    assert "is incomplete: folds 1 are not finished, and not packaged" in caplog.text


def test_weights_predict_a_folder_of_another_layout_and_say_so(moved, capsys, caplog):
    hidden = moved / "hidden"
    (hidden / "test_images").mkdir(parents=True)
    image = cv2.imread(str(moved / "raw" / "images" / "p0.png"))
    cv2.imwrite(str(hidden / "test_images" / "x1.tiff"), image)
    (hidden / "test.csv").write_text("id,organ,pixel_size\nx1,lung,0.4\n")
    command = ["predict", "--weights", str(moved / "weights"), "--data", str(hidden), "--out", str(moved / "x.csv")]
    assert main(command) == 2
    assert "a folder of hubmap_2022 names in it the images to predict" in capsys.readouterr().err
    (hidden / "sample_submission.csv").write_text("id,rle\nx1,\n")
    assert main(command) == 0
    assert "weights of folder predict a folder of hubmap_2022" in caplog.text
    assert (moved / "x.csv").read_text().startswith("id,rle\nx1,")


def test_a_short_clock_does_not_cost_the_better_submission(moved, caplog):
    before = (moved / "s.csv").read_bytes()
    assert run(moved, "predict", "--limit-s", "0.001") == 0
    assert (moved / "s.earlier.csv").read_bytes() == before
    assert "s.earlier.csv" in caplog.text


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "check"])
def test_a_full_disk_ends_in_words_and_leaves_nothing_half_written(moved, verb, monkeypatch, capsys):
    if verb == "train":
        shutil.rmtree(moved / "runs" / "small" / "fold0")
    if verb == "evaluate":
        (moved / "runs" / "small" / "oof_scores.jsonl").unlink()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert run(moved, verb) == 2
    told = capsys.readouterr().err
    assert f"{moved}" in told
    assert "the disk is full; free some space" in told
    assert not [path for path in moved.rglob("*") if ".tmp" in path.name or ".new-" in path.name]


@pytest.mark.parametrize("text", ['{"a": 1}', "\u00ff"])
def test_journals_of_something_else_are_passed_over(moved, project, text):
    for path in (moved / "runs" / "small" / "oof_scores.jsonl", moved / "dataset" / "parts" / "p0.json"):
        path.write_text(text)
    for verb in ("build", "evaluate"):
        assert run(moved, verb) == 0
    assert (moved / "runs/small/oof.csv").read_bytes() == (project / "runs/small/oof.csv").read_bytes()


def test_every_file_of_the_chain_is_looked_at(project):
    inputs = ("small.toml", "raw/*", "raw/*/*")
    known = [*READERS, *ALIKE, *WRITTEN_ONLY, *inputs]
    left = [path.relative_to(project) for path in project.rglob("*") if path.is_file()]
    assert [path for path in left if not any(path.match(pattern) for pattern in known)] == []
    in_folds = {path.name for path in left if path.match("runs/small/fold[01]/*") and path.suffix != ".png"}
    looked_at = {name.rsplit("/", 1)[1] for name in READERS if "/fold" in name}
    assert in_folds - looked_at == {"state_0000003.pt", "state_0000006.pt"}, "and of these the newest"


@pytest.mark.parametrize("share", [0.0, 0.5], ids=["empty", "half"])
@pytest.mark.parametrize("name", READERS)
def test_a_cut_file_is_named_or_made_again(project, moved, name, share, capsys):
    path = sorted(moved.glob(name))[0]
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    for verb in READERS[name]:
        status = run(moved, verb)
        told = capsys.readouterr().err
        assert status in (0, 2), told
        assert "Traceback" not in told
        if status == 2:
            assert path.name.split(".")[0] in told or "tiles" in told, told
            assert "; " in told, "with a remedy"
            if verb != READERS[name][-1]:
                continue  # the last one may mend it
            return
    for result in RESULTS:
        assert (moved / result).read_bytes() == (project / result).read_bytes(), result
