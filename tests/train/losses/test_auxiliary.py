"""Losses of the auxiliary heads."""

import math

import pytest
import torch

from histofold.schema.loss import LossConfig
from histofold.train.losses.total import (
    auxiliary_losses,
    coarse_bits,
    deep_loss,
    organ_loss,
    pixel_size_loss,
    segmentation_loss,
)


def random_bits(*shape: int, classes: int = 2, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(0, 1 << classes, shape, generator=generator, dtype=torch.uint8)
    return bits | 128 * (torch.rand(shape, generator=generator) < 0.1).to(torch.uint8)


def test_organs_that_are_unknown_do_not_count():
    torch.manual_seed(0)
    logits = torch.randn(5, 3, requires_grad=True)
    organs = torch.tensor([2, -1, 0, -1, 1])
    known = organs >= 0
    expected = -logits.detach()[known].log_softmax(1)[torch.arange(3), organs[known]].mean()
    loss = organ_loss(logits, organs)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert (logits.grad[~known] == 0).all()
    assert (logits.grad[known] != 0).all()


def test_organs_of_several_processes_make_one_mean():
    torch.manual_seed(0)
    logits, organs = torch.randn(5, 3, dtype=torch.float64), torch.tensor([2, -1, 0, -1, 1])
    whole = organ_loss(logits, organs)
    sums = []
    organ_loss(logits[3:], organs[3:], lambda values: sums.append(values) or values)
    loss = organ_loss(logits[:3], organs[:3], lambda values: values + sums[0])
    assert loss.item() == pytest.approx(whole.item(), rel=1e-12)


def test_no_known_organ_is_no_loss():
    logits = torch.randn(2, 3, requires_grad=True)
    loss = organ_loss(logits, torch.tensor([-1, -1]))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_pixel_size_loss_is_smooth_at_zero_and_linear_afar():
    zooms = torch.tensor([0.5, -2.0, 1.0])
    truth = torch.tensor([0.0, 1.0, 1.0])
    expected = (0.5 * 0.5**2 + (3 - 0.5) + 0) / 3
    assert pixel_size_loss(zooms.half(), truth.double()).item() == pytest.approx(expected)


def test_coarse_bits_are_a_vote_of_what_counts():
    bits = torch.zeros(1, 4, 6, dtype=torch.uint8)
    bits[0, :2, :2] = torch.tensor([[1, 3], [1, 0]])  # class 0: three of four; class 1: one of four
    bits[0, :2, 2:4] = torch.tensor([[2, 2], [0, 0]])  # a draw is mask
    bits[0, :2, 4:6] = torch.tensor([[128, 129], [1, 1]])  # half ignored: the other half decides
    bits[0, 2:, :2] = torch.tensor([[129, 129], [129, 1]])  # mostly ignored
    bits[0, 2:, 2:4] = 255  # wholly ignored
    bits[0, 3, 5] = 64
    coarse = coarse_bits(bits, (2, 3))
    assert coarse.dtype == torch.uint8
    assert coarse[0, 0].tolist() == [1, 2, 1]
    assert (coarse[0, 1] & 128).tolist() == [128, 128, 0]
    assert coarse[0, 1, 1] == 128
    assert coarse[0, 1, 2] == 0


@pytest.mark.parametrize("value", [0, 1, 127, 128])
def test_an_even_tile_stays_what_it_is_at_any_size(value):
    bits = torch.full((2, 7, 10), value, dtype=torch.uint8)
    for size in ((7, 10), (4, 5), (3, 4), (1, 1)):
        assert torch.equal(coarse_bits(bits, size), torch.full((2, *size), value, dtype=torch.uint8))


def test_full_size_keeps_every_bit_and_flips_go_along():
    bits = random_bits(3, 8, 12)
    assert torch.equal(coarse_bits(bits, (8, 12)), bits)
    assert torch.equal(coarse_bits(bits.flip(1), (4, 3)), coarse_bits(bits, (4, 3)).flip(1))
    assert torch.equal(coarse_bits(bits.flip(2), (4, 3)), coarse_bits(bits, (4, 3)).flip(2))


@pytest.mark.parametrize(("activation", "config"), [("sigmoid", LossConfig()), ("softmax", LossConfig(bce=0, ce=0.5))])
def test_deep_supervision_weighs_fine_levels_twice_as_much(activation, config):
    torch.manual_seed(0)
    bits = random_bits(2, 8, 16)
    levels = [torch.randn(2, 2 + (activation == "softmax"), 8 >> n, 16 >> n, requires_grad=True) for n in (1, 2, 3)]
    weights = torch.tensor([1.0, 0.25])
    losses = [
        segmentation_loss(
            level, coarse_bits(bits, tuple(level.shape[2:])), config, activation=activation, weights_N=weights
        )["loss"].item()
        for level in levels
    ]
    loss = deep_loss(levels, bits, config, activation, weights_N=weights)
    assert loss.item() == pytest.approx((4 * losses[0] + 2 * losses[1] + losses[2]) / 7, rel=1e-5)
    turned = deep_loss(levels[::-1], bits, config, activation, weights_N=weights)
    assert turned.item() == loss.item()
    loss.backward()
    assert all((level.grad != 0).any() for level in levels)


def test_one_level_of_full_size_is_the_loss_itself():
    torch.manual_seed(0)
    bits, logits = random_bits(2, 5, 7), torch.randn(2, 2, 5, 7)
    loss = deep_loss([logits], bits, LossConfig(), "sigmoid")
    assert loss.item() == pytest.approx(segmentation_loss(logits, bits, LossConfig())["loss"].item(), rel=1e-6)
    with pytest.raises(ValueError, match="at least one coarser map"):
        deep_loss([], bits, LossConfig(), "sigmoid")


def test_only_heads_that_are_there_have_a_loss():
    torch.manual_seed(0)
    batch = {"mask": random_bits(2, 8, 8), "organ": torch.tensor([1, -1]), "log_zoom": torch.tensor([0.1, -0.2])}
    outputs = {
        "logits": torch.randn(2, 2, 8, 8),
        "organ": torch.randn(2, 3),
        "log_zoom": torch.zeros(2),
        "deep": [torch.randn(2, 2, 4, 4)],
    }
    losses = auxiliary_losses(outputs, batch, LossConfig(), "sigmoid")
    assert list(losses) == ["loss_organ", "loss_pixel_size", "loss_deep"]
    assert all(math.isfinite(loss) and loss > 0 for loss in losses.values())
    assert auxiliary_losses({"logits": outputs["logits"]}, {"mask": batch["mask"]}, LossConfig(), "sigmoid") == {}
    half = auxiliary_losses({"organ": outputs["organ"].bfloat16()}, batch, LossConfig(), "sigmoid")
    assert half["loss_organ"].dtype == torch.float32
