import pytest
import torch

from histoseg.core.faults import InputError
from histoseg.models.build import build_model


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet10t"])
@pytest.mark.parametrize("classes", [1, 2])
def test_logits_have_the_images_size(encoder, classes):
    model = build_model("unet", {"encoder": encoder, "classes": classes, "decoder_channels": [32, 16, 16, 8, 8]}).eval()
    with torch.inference_mode():
        logits = model(torch.rand(2, 3, 64, 96))
    assert tuple(logits.shape) == (2, classes, 64, 96)


def test_gradients_reach_every_parameter():
    model = build_model("unet", {"encoder": "resnet18"})
    model(torch.rand(2, 3, 64, 64)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match="known are unet"):
        build_model("resnet", {})
    with pytest.raises(InputError, match=r"cannot be built.*nothing"):
        build_model("unet", {"encoder": "nothing"})
