"""Every file that a chain leaves behind, emptied or cut in half: refused by name, or read again to the same result."""

import shutil

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
    "runs/small/fold0/experiment.toml": ("evaluate",),
    "runs/small/fold0/log.csv": ("train",),
    "runs/small/fold0/model.safetensors": ("package", "evaluate", "train"),
    "runs/small/fold1/run.json": ("train", "evaluate", "package"),
    "runs/small/fold1/state_*6.pt": ("train",),
    "runs/small/oof.csv": ("package", "evaluate"),
    "runs/small/oof_scores.jsonl": ("evaluate",),
    "runs/small/summary.json": ("package", "evaluate"),
    "runs/small/thresholds.json": ("package", "evaluate"),
    "weights/manifest.json": ("check", "predict", "package"),
    "weights/dataset-metadata.json": ("check",),
    "weights/small_fold0.safetensors": ("check", "predict"),
    "s.csv": ("predict",),
}
"""The verbs that read each file, one after the other until one refuses it; what mends it may come last."""
ALIKE = ("dataset/parts/*", "runs/small/fold[01]/*", "weights/*.safetensors")
"""Files of which one stands for all in `READERS`."""
WRITTEN_ONLY = ("*.html", "*.png", "*.whl")
"""What nothing of ours reads again."""
RESULTS = ("dataset/index.csv", "runs/small/fold0/model.safetensors", "runs/small/oof.csv", "s.csv")


@pytest.fixture(scope="module", autouse=True)
def tiny_nets():
    """Networks of a thousand weights, whatever the experiment names."""
    with pytest.MonkeyPatch.context() as patch:
        for place in ("train.run", "trust.oof", "predict.members"):
            patch.setattr(f"histofold.{place}.build_model", lambda *_: TinyNet())
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
def test_a_cut_file_is_named_or_made_again(project, tmp_path, name, share, capsys):
    shutil.copytree(project, tmp_path / "moved")  # which moves the project, too
    root = tmp_path / "moved"
    toml = (root / "small.toml").read_text()
    (root / "small.toml").write_text(toml.replace(str(project), str(root)))
    path = sorted(root.glob(name))[0]
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    for verb in READERS[name]:
        status = main(VERBS[verb].format(root).split())
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
        assert (root / result).read_bytes() == (project / result).read_bytes(), result
