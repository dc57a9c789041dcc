"""Every family of networks trains through the loop with all heads, is saved as the plain network, and is validated."""

import pandas as pd
import pytest
from safetensors.torch import load_file

from histofold.models.build import build_model
from histofold.train.loop import train_fold
from small_datasets import SMALL_UNET
from small_runs import small_dataset, small_setup

FAMILIES = {
    "unetplusplus": SMALL_UNET,
    "effunet-b0": {},
    "deeplabv3": {"encoder": "resnet18"},
    "deeplabv3plus": {"encoder": "resnet18"},
    "segformer": {"encoder": "mit_b0"},
    "upernet": {"encoder": "tu-convnext_atto"},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small_dataset(tmp_path_factory.mktemp("architectures"))


@pytest.mark.slow
@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_family_trains_with_all_heads(dataset, tmp_path, architecture):
    own = {"encoder": "", "decoder_channels": (256, 128, 64, 32, 16)}
    model = {"architecture": architecture, **own, **FAMILIES[architecture], "activation": "softmax"}
    loss = {"bce": 0.0, "ce": 0.5, "pixel_size": 0.1, "deep_supervision": 0.2}
    setup = small_setup(dataset, tmp_path, model=model, loss=loss, train={"steps": 2})
    assert 0 <= train_fold(setup, False) <= 1
    config = setup.experiment.model
    plain = build_model(config.architecture, config.arguments())
    plain.load_state_dict(load_file(setup.folder / "model.safetensors"))
    log = pd.read_csv(setup.folder / "log.csv")
    assert log[["loss", "loss_ce", "loss_dice", "loss_pixel_size", "loss_deep"]].notna().all().all()
