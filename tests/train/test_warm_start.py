"""Where a fold starts: weights of an earlier run, refused where they have seen what the fold is scored on."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from histofold.core.faults import InputError
from histofold.data.leaks import image_stamp
from histofold.models.build import build_model
from histofold.models.weights import shipped_state
from histofold.schema.experiment import Experiment, ModelConfig
from histofold.schema.network import SHIPPED_ENCODER
from histofold.schema.parse import load_toml
from histofold.schema.sample import Sample
from histofold.train.run import start_run
from histofold.train.warm_start import find_initial_weights, load_initial_weights
from small_datasets import SMALL_UNET, small_record
from small_runs import small_dataset, small_setup


@pytest.fixture
def slides(tmp_path):
    samples = []
    for number in range(4):
        path = tmp_path / f"{number}.tiff"
        path.write_bytes(np.random.default_rng(number).bytes(500))
        samples.append(Sample(id=f"s{number}", image_path=path))
    return samples


def write_run(folder, fold, trained, competition="hubmap_2022", **changes):
    """A finished fold whose weights are a few bytes: nothing here looks into them."""
    (folder / f"fold{fold}").mkdir(parents=True, exist_ok=True)
    (folder / f"fold{fold}" / "model.safetensors").write_bytes(b"weights")
    seen = {s.id: image_stamp(s.image_path) for s in trained}
    small_record(folder / f"fold{fold}", fold, **{"competition": competition, "trained_on": seen, **changes})
    return folder


def init(run, fold, forbidden, competition="hubmap_2022"):
    return find_initial_weights(ModelConfig(init=str(run), **SMALL_UNET), fold, forbidden, competition)


def test_each_fold_starts_from_its_own_fold(tmp_path, slides):
    run = write_run(write_run(tmp_path / "run", 0, slides[:2]), 1, slides[2:])
    for fold, forbidden in ((0, slides[2:]), (1, slides[:2])):
        found = init(run, fold, forbidden)
        assert found.path == run / f"fold{fold}" / "model.safetensors"
        assert set(found.trained_on) == {s.id for s in slides} - {s.id for s in forbidden}
    assert find_initial_weights(ModelConfig(**SMALL_UNET), 0, slides, "hubmap_2022") is None


def test_a_run_that_has_seen_the_validation_images_is_refused(tmp_path, slides):
    run = write_run(tmp_path / "run", 0, slides[:3])
    with pytest.raises(InputError, match=r"trained on 1 images that fold 0 is scored on \(s2\): it leaks"):
        init(run, 0, slides[2:])
    renamed = [Sample(id="other", image_path=slides[1].image_path)]
    with pytest.raises(InputError, match=r"\(other\): it leaks"):
        init(run, 0, renamed, competition="folder")
    assert init(run, 0, [Sample(id="s2", image_path=slides[3].image_path)], competition="folder") is not None
    with pytest.raises(InputError, match="it leaks"):
        init(f"file:{run}/fold0/model.safetensors", 0, slides[2:])


def test_what_cannot_be_started_from_is_refused_with_what_there_is(tmp_path, slides, caplog):
    run = write_run(tmp_path / "run", 2, [])
    with pytest.raises(InputError, match=r"no finished fold here; finished there: fold2"):
        init(run, 0, [])
    cut = write_run(tmp_path / "cut", 0, [])
    (cut / "fold0" / "run.json").write_text('{"fold": 0')
    with pytest.raises(InputError, match="no record of a finished fold"):
        init(cut, 0, [])
    with pytest.raises(InputError, match="the same network"):
        init(write_run(tmp_path / "deep", 0, [], architecture="other"), 0, [])
    with pytest.raises(InputError, match="no such file"):
        init(f"file:{tmp_path}/none.safetensors", 0, [])
    bare = tmp_path / "bare.safetensors"
    bare.write_bytes(b"weights")
    assert init(f"file:{bare}", 0, slides).path == bare
    assert "nothing says what" in caplog.text


def test_weights_are_loaded_whole_or_not_at_all(tmp_path):
    torch.manual_seed(0)
    given, model = (build_model("unet", ModelConfig(**SMALL_UNET).arguments()) for _ in range(2))
    path = tmp_path / "model.safetensors"
    save_file(given.state_dict(), path)
    load_initial_weights(model, path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, given.state_dict()[name]), name
    state = given.state_dict()
    state["segmentation_head.0.weight"] = torch.zeros(2, 8, 3, 3)
    save_file(state, path)
    with pytest.raises(InputError, match=r"1 tensors are not.*segmentation_head.0.weight"):
        load_initial_weights(model, path)
    path.write_bytes(b"not weights")
    with pytest.raises(InputError, match="not a safetensors file"):
        load_initial_weights(model, path)


@pytest.mark.slow
def test_a_fold_starts_from_the_shipped_weights_and_sees_what_they_saw(tmp_path):
    shipped = {"encoder": SHIPPED_ENCODER, "encoder_weights": "shipped"}
    setup = small_setup(small_dataset(tmp_path), tmp_path / "runs", model=shipped)
    for preprocessing in (setup.experiment.preprocessing, setup.manifest.preprocessing):
        assert (preprocessing.mean, preprocessing.std) == ((0.5,) * 3, (0.5,) * 3)
    encoder = start_run(setup, resume=False).network.model.encoder.state_dict()
    state = shipped_state()
    assert all(torch.equal(tensor.cpu(), state[name.removeprefix("model.")]) for name, tensor in encoder.items())
    assert load_toml(Experiment, setup.folder / "experiment.toml") == setup.experiment


@pytest.mark.slow
def test_a_folder_of_weights_is_found_and_counts_by_what_its_file_holds(tmp_path):
    dataset, folder = small_dataset(tmp_path), tmp_path / "hub"
    model = {**SMALL_UNET, "encoder_weights": f"file:{folder}"}
    folder.mkdir()
    with pytest.raises(InputError, match=r"model.encoder_weights.*no such file"):
        small_setup(dataset, tmp_path / "runs", model=model)
    save_file(build_model("unet", SMALL_UNET).encoder.state_dict(), folder / "model.safetensors")
    first = small_setup(dataset, tmp_path / "runs", model=model)
    encoder = start_run(first, resume=False).network.model.encoder.state_dict()
    assert all(torch.equal(tensor.cpu(), load_file(folder / "model.safetensors")[n]) for n, tensor in encoder.items())
    save_file(build_model("unet", SMALL_UNET).encoder.state_dict(), folder / "model.safetensors")
    assert small_setup(dataset, tmp_path / "runs", model=model).digest != first.digest
