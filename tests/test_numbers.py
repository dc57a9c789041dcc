"""Numbers that are none, and data that say nothing: named with file and step, or predicted with like any other."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from histofold.commands.main import main
from histofold.core.faults import InputError
from histofold.models.build import build_model
from histofold.models.weights import load_encoder_weights
from histofold.predict.members import load_ensemble
from histofold.schema.manifest import file_sha256, load_manifest, manifest_json
from histofold.schema.network import ModelConfig
from histofold.schema.parse import to_toml
from histofold.train import loop
from histofold.train.checkpoint import state_paths
from histofold.train.warm_start import load_initial_weights
from small_datasets import SMALL_UNET, draw, make_folder
from small_runs import TinyNet, same_tensors, small_dataset, small_experiment, small_setup, use_tiny_nets

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small_dataset(tmp_path_factory.mktemp("numbers"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_update_that_breaks_the_weights_stops_the_run_and_the_state_before_it_is_good(
    dataset, tmp_path, monkeypatch, value
):
    use_tiny_nets(monkeypatch)
    options = {"train": {"steps": 6, "save_every": 2, "validate_every": 6}}
    whole, broken = (small_setup(dataset, tmp_path / name, **options) for name in ("whole", "broken"))
    loop.train_fold(whole, resume=False)
    step = loop.training_step

    def breaking(run, setup, batches):
        losses = step(run, setup, batches)
        if run.step == 3:
            run.network.model.head.bias.data.fill_(value)
        return losses

    with monkeypatch.context() as patch:
        patch.setattr(loop, "training_step", breaking)
        with pytest.raises(InputError, match=r"fold 0: .*broken.*: after step 4 weights are no finite numbers: head"):
            loop.train_fold(broken, resume=False)
    assert [path.name for path in state_paths(broken.folder)] == ["state_0000002.pt"]
    loop.train_fold(broken, resume=True)
    assert same_tensors(*(load_file(each.folder / "model.safetensors") for each in (whole, broken)))


def with_nan(path):
    """A file of weights one of whose numbers is none; gives the name of its tensor."""
    state = load_file(path)
    name = next(name for name, tensor in state.items() if tensor.is_floating_point())
    state[name].view(-1)[-1] = torch.nan
    save_file(state, path)
    return name


def test_weights_that_are_no_numbers_are_refused_by_the_name_of_their_tensor(tmp_path, small_package):
    save_file(TinyNet().state_dict(), tmp_path / "tiny.safetensors")
    name = with_nan(tmp_path / "tiny.safetensors")
    with pytest.raises(InputError, match=rf"1 tensors hold values that are no finite numbers \({name}\)"):
        load_initial_weights(TinyNet(), tmp_path / "tiny.safetensors")

    folder = shutil.copytree(small_package, tmp_path / "package")
    manifest = load_manifest(folder)
    name = with_nan(folder / manifest.members[1].file)
    digest = file_sha256(folder / manifest.members[1].file)
    text = manifest_json(manifest).replace(manifest.members[1].sha256, digest)
    (folder / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=f"small_fold1.safetensors: .*no finite numbers.*{name}"):
        load_ensemble([(folder, load_manifest(folder))])

    model = build_model("unet", SMALL_UNET)
    torch.save(model.encoder.state_dict(), tmp_path / "encoder.pth")
    state = torch.load(tmp_path / "encoder.pth", weights_only=True)
    first = next(iter(state))
    state[first].fill_(torch.inf)
    torch.save(state, tmp_path / "encoder.pth")
    config = ModelConfig(**SMALL_UNET, encoder_weights=f"file:{tmp_path / 'encoder.pth'}")
    with pytest.raises(InputError, match=f"{first}: .*no finite numbers"):
        load_encoder_weights(model, config)


class Undecided(TinyNet):
    """Says 0.5 of every pixel, whatever it has learnt."""

    def forward(self, images_NCHW):
        return super().forward(images_NCHW) * 0.0


def flat(seed):
    """A picture of one colour of its own, half of which is labelled."""
    image, mask = draw(seed)
    return np.full_like(image, 60 + 45 * seed), np.arange(mask.size).reshape(mask.shape) < mask.size // 2


def one_class(seed):
    """A picture all of which is labelled where the seed is odd, else nothing."""
    image, mask = draw(seed)
    return image, np.full_like(mask, seed % 2 == 1)


CASES = {
    "images of one colour, a network that says 0.5": (flat, Undecided),
    "folds of one class": (one_class, TinyNet),
}
CHAIN = (
    "build --data {0}/raw --out {0}/dataset --experiment {0}/small.toml --folds {0}/folds.csv --workers 1",
    "train {0}/small.toml --runs {0}/runs",
    "evaluate {0}/runs/small",
    "package {0}/runs/small --out {0}/weights",
    "predict --weights {0}/weights --data {0}/raw --out {0}/s.csv --geojson {0}/geojson",
)


@pytest.mark.parametrize("case", CASES)
def test_data_that_say_nothing_go_through_the_chain(tmp_path, monkeypatch, capsys, case):
    drawn, net = CASES[case]
    for place in ("train.run.build_network", "trust.oof.build_network", "predict.tuner.build_network"):
        monkeypatch.setattr(f"histofold.{place}", lambda *_: net())
    monkeypatch.setattr("histofold.predict.submission.rows.MaskRows.build", staticmethod(lambda *_: net()))
    monkeypatch.setattr("histofold.predict.members.refuse_equal_members", lambda *_: None)
    names = [f"p{n}" for n in range(4)]
    make_folder(tmp_path / "raw", {name: drawn(n) for n, name in enumerate(names)})
    rows = [f"{name},{name},0,{n % 2}" for n, name in enumerate(names)]
    (tmp_path / "folds.csv").write_text("\n".join(["id,group,stratum,fold", *rows]) + "\n")
    experiment = small_experiment(tmp_path / "dataset", train={"steps": 2, "save_every": 2})
    (tmp_path / "small.toml").write_text(to_toml(experiment))
    for line in CHAIN:
        assert main(line.format(tmp_path).split()) == 0, capsys.readouterr().err
    oof = pd.read_csv(tmp_path / "runs" / "small" / "oof.csv")
    assert oof["dice"].between(0, 1).all()
    thresholds = json.loads((tmp_path / "runs" / "small" / "thresholds.json").read_text())
    assert all(0 < value < 1 for value in thresholds.values())
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 5
    for path in (tmp_path / "geojson").iterdir():
        assert "NaN" not in path.read_text()
        assert json.loads(path.read_text())["type"] == "FeatureCollection"
