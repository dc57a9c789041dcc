"""The networks that a kernel builds are the package's own."""

import runpy

import pytest
import torch

from histofold.models.build import build_model
from histofold.models.film import organs_seen

pytestmark = pytest.mark.slow

NARROW = [16, 16, 8, 8, 8]
NETWORKS = [
    ("unet", {"encoder": "tu-coat_lite_tiny", "decoder_channels": NARROW, "organs": ["kidney", "lung"]}),
    ("manet", {"encoder": "tu-hiera_tiny_224", "image_size": 96, "decoder_channels": NARROW}),
    ("fpn", {"encoder": "tu-maxvit_rmlp_pico_rw_256", "image_size": 64}),
    ("pan", {"encoder": "resnet18"}),
    ("dpt", {"encoder": "tu-vit_small_patch14_reg4_dinov2", "image_size": 224, "organs": ["lung"]}),
]


def seeded(build, seen, architecture, arguments):
    """Logits of a network of seeded weights, none of them zero, for images of a lung."""
    torch.manual_seed(0)
    model = build(architecture, arguments).eval()
    with torch.inference_mode(), seen(["lung"]):
        for name, tensor in model.named_parameters():
            if "film" in name:
                tensor.normal_()
        return model(torch.rand(1, 3, 50, 96))


@pytest.fixture(scope="module")
def kernel(project_root):
    return runpy.run_path(str(project_root / "kaggle_kernels" / "hubmap_2022" / "kernel.py"))


@pytest.mark.parametrize(("architecture", "arguments"), NETWORKS)
def test_a_kernel_builds_what_the_package_builds(kernel, architecture, arguments):
    found = seeded(kernel["build_model"], kernel["organs_seen"], architecture, arguments)
    assert torch.equal(found, seeded(build_model, organs_seen, architecture, arguments))
