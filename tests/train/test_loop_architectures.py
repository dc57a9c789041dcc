"""Every family of networks trains through the loop with all heads, is saved as the plain network, and is validated."""

import pandas as pd
import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import load_file

from histofold.models.build import build_model
from histofold.train.checkpoint import save_network
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
    "fpn": {"encoder": "tu-pvt_v2_b0"},
    "dpt": {"encoder": "tu-vit_tiny_patch16_224"},
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
    optim = {"encoder_blocks": 1} if architecture == "dpt" else {}
    setup = small_setup(dataset, tmp_path, model=model, loss=loss, train={"steps": 2}, optim=optim)
    assert 0 <= train_fold(setup, False) <= 1
    config = setup.experiment.model
    plain = build_model(config.architecture, config.arguments())
    plain.load_state_dict(load_file(setup.folder / "model.safetensors"))
    log = pd.read_csv(setup.folder / "log.csv")
    assert log[["loss", "loss_ce", "loss_dice", "loss_pixel_size", "loss_deep"]].notna().all().all()
    assert (setup.folder / "config.json").is_file() == (architecture not in ("effunet-b0", "segformer", "dpt"))


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("unet", {**SMALL_UNET, "classes": 2}),
        ("unetplusplus", {**SMALL_UNET, "activation": "softmax"}),
        ("deeplabv3", {"encoder": "tu-lcnet_035", "output_stride": 16, "atrous_rates": [2, 4, 6]}),
        ("deeplabv3plus", {"encoder": "tu-lcnet_035"}),
        ("upernet", {"encoder": "tu-lcnet_035"}),
    ],
)
def test_smp_loads_a_fold_and_hands_it_on(tmp_path, architecture, arguments):
    torch.manual_seed(0)
    images_NCHW = torch.rand(2, 3, 64, 96)
    model = build_model(architecture, arguments)
    model(images_NCHW)  # moves the statistics of batch normalisation, which must be kept too
    save_network(model, tmp_path)
    loaded = smp.from_pretrained(tmp_path).eval()
    # Softmax classes are told apart by the network's own logits, background first, as in training.
    plain = (model.net if "activation" in arguments else model).eval()
    with torch.inference_mode():
        expected = plain(images_NCHW)
        assert torch.equal(loaded(images_NCHW), expected)
        loaded.save_pretrained(tmp_path / "hub")  # what push_to_hub uploads
        assert torch.equal(smp.from_pretrained(tmp_path / "hub").eval()(images_NCHW), expected)


def test_a_network_that_smp_does_not_know_leaves_no_config(tmp_path):
    (tmp_path / "config.json").write_text("of the weights before")
    save_network(torch.nn.Linear(2, 3), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
