"""Batch normalisation folded into convolutions: the same answers, and only where it is the same."""

import copy

import pytest
import torch
from timm.layers import BatchNormAct2d, StdConv2d
from torch import nn

from histofold.models.folding import fold_norms

SIDES = (40, 56)


def norms(model):
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())


def with_moments(model):
    """In evaluation mode, its running moments those of some noise."""
    torch.manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, -2, 2)
            nn.init.normal_(layer.bias)
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.1, 3)
    return model.eval()


def assert_same_answers(first, second, channels=3):
    images_NCHW = torch.randn(2, channels, *SIDES, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        one, other = first(images_NCHW), second(images_NCHW)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("affine", [True, False])
def test_a_convolution_does_what_its_normalisation_did(bias, groups, affine):
    convolution = nn.Conv2d(3, 6, (3, 5), stride=2, padding=1, groups=groups, bias=bias)
    norm = nn.BatchNorm2d(6, eps=0.01, affine=affine)
    if affine:
        with_moments(norm)
    else:
        norm.running_mean.fill_(0.3)
        norm.running_var.fill_(2.5)
    net = nn.Sequential(convolution, norm, nn.ReLU()).eval()
    before = copy.deepcopy(net.state_dict())
    folded = fold_norms(net)
    assert norms(folded) == 0
    assert_same_answers(net, folded)
    assert all(torch.equal(net.state_dict()[key], before[key]) for key in before), "the network itself is untouched"


def test_the_activation_of_timms_normalisation_stays():
    net = with_moments(nn.Sequential(nn.Conv2d(5, 4, 3), BatchNormAct2d(4, act_layer=nn.SiLU)))
    folded = fold_norms(net, channels=5)
    assert norms(folded) == 0
    assert_same_answers(net, folded, channels=5)


class Twice(nn.Module):
    """Its convolution's output goes to the normalisation and past it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, images_NCHW):
        maps_NCHW = self.conv(images_NCHW)
        return maps_NCHW + self.norm(maps_NCHW)


class Shared(nn.Module):
    """One normalisation of two convolutions."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.norm = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

    def forward(self, images_NCHW):
        return self.norm(self.second(self.norm(self.first(images_NCHW))))


class Before(nn.Module):
    """Normalises, as pre-activated networks do, what it then convolves; the names stand the other way round."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

    def forward(self, images_NCHW):
        return self.conv(self.norm(images_NCHW))


@pytest.mark.parametrize(
    "net",
    [
        Twice(),
        Shared(),
        Before(),
        nn.Sequential(StdConv2d(3, 4, 3), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.BatchNorm2d(4)),
    ],
)
def test_what_cannot_be_folded_stays(net):
    with_moments(net)
    left = fold_norms(net)
    assert norms(left) == norms(net) == 1
    assert_same_answers(net, left)


def test_without_a_normalisation_nothing_is_asked():
    net = nn.Sequential(nn.Linear(3, 4)).eval()
    assert fold_norms(net) is net
