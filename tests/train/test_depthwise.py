"""Depthwise convolutions under bf16: which of them train in fp32, and that nothing else of them changes."""

import copy

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn

from histofold.train.depthwise import FullPrecision, widen_depthwise

IN_BF16 = torch.device("cpu"), torch.bfloat16
SLOW = {
    "large": nn.Conv2d(8, 8, 5, padding=2, groups=8),
    "strided": Conv2dSame(8, 16, 3, stride=2, groups=8),
    "dilated": nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8),
}
FAST = {
    "plain": nn.Conv2d(8, 8, 5, stride=2),
    "grouped": nn.Conv2d(8, 8, 5, groups=4),
    "small": nn.Conv2d(8, 8, 3, padding=1, groups=8),
    "of one channel": nn.Conv2d(1, 8, 5),
}


def test_those_with_slow_gradients_alone_are_changed_and_keep_their_weights():
    network = copy.deepcopy(nn.ModuleDict(SLOW | FAST))
    before = copy.deepcopy(network.state_dict())
    widen_depthwise(network, torch.device("cpu"), torch.float32)
    widen_depthwise(network, torch.device("cuda"), torch.bfloat16)
    assert not any(isinstance(module, FullPrecision) for module in network.values())
    widen_depthwise(network, *IN_BF16)
    assert {name for name, module in network.items() if isinstance(module, FullPrecision)} == set(SLOW)
    assert {type(module).__name__ for module in network.values()} == {"Conv2d", "Conv2dSame"}
    after = copy.deepcopy(network).state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("name", SLOW)
def test_it_trains_as_in_fp32_and_is_validated_in_bf16(name):
    torch.manual_seed(0)
    wide = copy.deepcopy(nn.ModuleDict({name: SLOW[name]}))
    plain = copy.deepcopy(wide)[name]
    widen_depthwise(wide, *IN_BF16)
    x_NCHW = torch.randn(2, 8, 13, 10, dtype=torch.bfloat16)
    wanted_NCHW = plain(x_NCHW.float())
    towards_NCHW = torch.randn_like(wanted_NCHW, dtype=torch.bfloat16)
    wanted_NCHW.backward(towards_NCHW.float())
    with torch.autocast("cpu", torch.bfloat16):
        y_NCHW = wide[name](x_NCHW)
        assert torch.equal(wide.eval()[name](x_NCHW), plain(x_NCHW))
    assert torch.equal(y_NCHW, wanted_NCHW.bfloat16())
    y_NCHW.backward(towards_NCHW)
    torch.testing.assert_close(wide[name].weight.grad, plain.weight.grad)
