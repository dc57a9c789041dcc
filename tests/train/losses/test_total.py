"""Laws that every loss term must hold, with either activation."""

import math

import pytest
import torch

from histofold.core.faults import InputError
from histofold.schema.loss import LOSS_TERMS, LossConfig
from histofold.schema.parse import parse_dataclass, plain
from histofold.train.losses.total import segmentation_loss

NOTHING = dict.fromkeys(LOSS_TERMS, 0.0)
CASES = [
    *[("sigmoid", term) for term in LOSS_TERMS if term != "ce"],
    *[("softmax", term) for term in LOSS_TERMS if term != "bce"],
]
VARIANTS = [
    ("sigmoid", "dice", {"dice_per_image": True}),
    ("sigmoid", "tversky", {"tversky_gamma": 4 / 3}),
    ("softmax", "jaccard", {"dice_smooth": 0.0}),
    ("sigmoid", "bce", {"label_smoothing": 0.2}),
    ("softmax", "ce", {"label_smoothing": 0.2}),
    ("sigmoid", "bce", {"bce_positive_weight": 50.0}),
    ("sigmoid", "focal", {"focal_gamma": 0.5, "focal_alpha": 0.25}),
    ("softmax", "focal", {"focal_gamma": 0.0, "focal_alpha": 0.75}),
]
ALL = [(activation, term, {}) for activation, term in CASES] + VARIANTS
each_case = pytest.mark.parametrize(("activation", "term", "settings"), ALL)


def only(term: str, **settings: object) -> LossConfig:
    return LossConfig(**{**NOTHING, term: 1.0, **settings})


def example(activation: str, classes: int = 3, seed: int = 0, scale: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and bits with overlapping classes, ignored pixels, and their first and last pixel set."""
    generator = torch.Generator().manual_seed(seed)
    channels = classes + (activation == "softmax")
    logits = scale * torch.randn(4, channels, 6, 9, generator=generator, dtype=torch.float64)
    bits = torch.randint(0, 1 << classes, (4, 6, 9), generator=generator, dtype=torch.uint8)
    bits |= 128 * (torch.rand(4, 6, 9, generator=generator) < 0.2).to(torch.uint8)
    bits[:, 0, 0] = 1
    bits[:, -1, -1] = (1 << classes) - 1
    return logits, bits


def value_and_gradient(
    logits: torch.Tensor,
    bits: torch.Tensor,
    config: LossConfig,
    activation: str,
    weights_N: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = logits.clone().requires_grad_()
    loss = segmentation_loss(leaf, bits, config, activation=activation, weights_N=weights_N)["loss"]
    loss.backward()
    return loss.detach(), leaf.grad


def test_the_loss_is_the_weighted_sum_of_its_terms():
    logits, bits = example("sigmoid")
    losses = segmentation_loss(logits, bits, LossConfig(bce=0.3, dice=1.1, focal=2))
    assert list(losses) == ["loss", "loss_bce", "loss_dice", "loss_focal"]
    assert losses["loss"] == pytest.approx(
        (0.3 * losses["loss_bce"] + 1.1 * losses["loss_dice"] + 2 * losses["loss_focal"]).item()
    )
    losses = segmentation_loss(*example("softmax"), only("ce", dice=0.5), activation="softmax")
    assert list(losses) == ["loss", "loss_ce", "loss_dice"]


@each_case
def test_ignored_pixels_change_nothing(activation, term, settings):
    logits, bits = example(activation)
    ignored = bits >= 128
    assert 0 < ignored.sum() < ignored.numel()
    config = only(term, **settings)
    loss, gradient = value_and_gradient(logits, bits, config, activation)
    other_logits = torch.where(ignored[:, None], -3 * logits + 50, logits)
    other_bits = torch.where(ignored, 255 - (bits & 127), bits)
    other_loss, other_gradient = value_and_gradient(other_logits, other_bits, config, activation)
    assert torch.equal(loss, other_loss)
    assert torch.equal(gradient, other_gradient)
    assert (gradient[ignored[:, None].expand_as(gradient)] == 0).all()
    assert (gradient != 0).any()


@each_case
def test_an_example_of_weight_0_is_absent(activation, term, settings):
    logits, bits = example(activation)
    config = only(term, **settings)
    weights = torch.tensor([0.5, 0.0, 1.0, 2.0])
    loss, gradient = value_and_gradient(logits, bits, config, activation, weights)
    kept = torch.tensor([0, 2, 3])
    loss_without, gradient_without = value_and_gradient(logits[kept], bits[kept], config, activation, weights[kept])
    assert loss.item() == pytest.approx(loss_without.item(), rel=1e-12)
    assert torch.allclose(gradient[kept], gradient_without, rtol=1e-10, atol=1e-15)
    assert (gradient[1] == 0).all()


@each_case
def test_a_whole_weight_repeats_an_example(activation, term, settings):
    logits, bits = example(activation)
    config = only(term, **settings, dice_smooth=0.0) if "dice_smooth" not in settings else only(term, **settings)
    loss, _ = value_and_gradient(logits, bits, config, activation, torch.tensor([1.0, 3.0, 1.0, 2.0]))
    repeated = torch.tensor([0, 1, 1, 1, 2, 3, 3])
    expected, _ = value_and_gradient(logits[repeated], bits[repeated], config, activation)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-10)


@each_case
def test_order_and_flips_change_nothing(activation, term, settings):
    logits, bits = example(activation)
    config = only(term, **settings)
    loss, _ = value_and_gradient(logits, bits, config, activation)
    order = torch.tensor([2, 0, 3, 1])
    for moved_logits, moved_bits in (
        (logits[order], bits[order]),
        (logits.flip(2), bits.flip(1)),
        (logits.flip(3), bits.flip(2)),
        (logits.transpose(2, 3), bits.transpose(1, 2)),
    ):
        moved, _ = value_and_gradient(moved_logits, moved_bits, config, activation)
        assert moved.item() == pytest.approx(loss.item(), rel=1e-6)


@each_case
@pytest.mark.parametrize("size", [100.0, 1e4])
@pytest.mark.parametrize("truth", [0, 1, 7, 128, 131], ids=["empty", "one class", "full", "ignored", "ignored full"])
def test_values_and_gradients_are_finite_at_extremes(activation, term, settings, size, truth):
    logits, _ = example(activation)
    bits = torch.full((4, 6, 9), truth, dtype=torch.uint8)
    for extreme in (logits.sign().float() * size, torch.full_like(logits, size).float(), -logits.abs().float() * size):
        loss, gradient = value_and_gradient(extreme, bits, only(term, **settings), activation)
        assert loss.dtype == gradient.dtype == torch.float32
        assert math.isfinite(loss)
        assert torch.isfinite(gradient).all()
        assert loss >= (-1 if term == "boundary" else 0)
        if truth >= 128:
            assert loss == 0
            assert (gradient == 0).all()


@each_case
@pytest.mark.parametrize("classes", [1, 2, 5])
def test_any_number_of_classes_and_loss_of_the_truth_itself(activation, term, settings, classes):
    logits, bits = example(activation, classes)
    config = only(term, **settings)
    loss, gradient = value_and_gradient(logits, bits, config, activation)
    assert loss > (-1 if term == "boundary" else 0)
    assert torch.isfinite(gradient).all()
    numbers = torch.arange(classes)
    if activation == "sigmoid":
        planes = (bits[:, None].long() >> numbers[:, None, None]) & 1
    else:
        highest = torch.zeros_like(bits, dtype=torch.long)
        for number in range(classes):
            highest[(bits >> number) & 1 == 1] = number + 1
        planes = torch.nn.functional.one_hot(highest, classes + 1).permute(0, 3, 1, 2)
    certain, _ = value_and_gradient((200.0 * planes - 100).double(), bits, config, activation)
    if term == "boundary":
        assert certain < loss
    elif settings.get("label_smoothing", 0) == 0:
        assert certain.item() == pytest.approx(0, abs=1e-12)


@each_case
@pytest.mark.parametrize("classes", [1, 3])
def test_a_batch_without_masks_teaches(activation, term, settings, classes):
    logits, _ = example(activation, classes, scale=0.5)
    bits = torch.zeros(4, 6, 9, dtype=torch.uint8)
    if settings.get("dice_smooth") == 0:
        loss, gradient = value_and_gradient(logits, bits, only(term, **settings), activation)
        assert loss.item() == pytest.approx(1)
        assert gradient.abs().max() < 1e-12
        return
    # Smoothed truth wants logits of some size: it pushes down what lies above it.
    logits = logits + 3 if activation == "sigmoid" and settings.get("label_smoothing") else logits
    _, gradient = value_and_gradient(logits, bits, only(term, **settings), activation)
    if term == "surface":  # a pixel among others that are taken for mask is pulled up: that makes fewer edges
        assert gradient[:, 0].sum() * (1 if activation == "sigmoid" else -1) > 0
    elif activation == "sigmoid":
        assert (gradient >= 0).all()
        assert (gradient > 0).any(dim=3).any(dim=2).any(dim=0).all(), "every class is pushed down"
    elif not settings.get("label_smoothing"):
        assert (gradient[:, 0] <= 0).all()
        assert (gradient[:, 0] < 0).any()
        if classes == 1:
            assert (gradient[:, 1] >= 0).all()
    else:
        assert gradient[:, 0].sum() < 0


@each_case
def test_half_precision_is_computed_in_float32(activation, term, settings):
    logits, bits = example(activation)
    config = only(term, **settings)
    half = logits.bfloat16()
    expected, _ = value_and_gradient(half.float(), bits, config, activation)
    with torch.autocast("cpu", torch.bfloat16):
        loss = segmentation_loss(half, bits, config, activation=activation)["loss"]
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


@each_case
def test_one_pixel_and_channels_last(activation, term, settings):
    config = only(term, **settings)
    logits, bits = example(activation)
    loss, _ = value_and_gradient(logits[:, :, :1, :1], bits[:, :1, :1], config, activation)
    assert math.isfinite(loss)
    strided = logits.contiguous(memory_format=torch.channels_last)
    expected, expected_gradient = value_and_gradient(logits, bits, config, activation)
    loss, gradient = value_and_gradient(strided, bits, config, activation)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert torch.allclose(gradient, expected_gradient, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(("activation", "term"), [case for case in CASES if case[1] != "lovasz"])
def test_parts_of_a_batch_make_the_loss_of_the_whole(activation, term):
    """What `across` is for: halves whose sums are added up give the loss and, together, the gradient of the whole."""
    logits, bits = example(activation)
    config, weights = only(term), torch.tensor([1.0, 0.5, 2.0, 1.0], dtype=torch.float64)
    expected, gradient = value_and_gradient(logits, bits, config, activation, weights)
    halves = [slice(0, 2), slice(2, 4)]
    seen: list[list[torch.Tensor]] = []
    for half in halves:
        seen.append([])
        record = seen[-1]

        def keep(sums, record=record):
            record.append(sums.detach())
            return sums

        segmentation_loss(logits[half], bits[half], config, activation=activation, weights_N=weights[half], across=keep)
    for number, half in enumerate(halves):
        others = iter(seen[1 - number])
        leaf = logits[half].clone().requires_grad_()
        loss = segmentation_loss(
            leaf,
            bits[half],
            config,
            activation=activation,
            weights_N=weights[half],
            across=lambda sums, others=others: sums + next(others),
        )["loss"]
        loss.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
        assert torch.allclose(leaf.grad, gradient[half], rtol=1e-9, atol=1e-15)


def test_bits_that_are_no_class_have_no_meaning():
    logits, bits = example("sigmoid", 2)
    for activation, cut in (("sigmoid", logits), ("softmax", torch.cat([logits, logits[:, :1]], 1))):
        config = only("bce" if activation == "sigmoid" else "ce", dice=1.0)
        loss, _ = value_and_gradient(cut, bits, config, activation)
        other, _ = value_and_gradient(cut, bits | 64 | 4, config, activation)
        assert torch.equal(loss, other)


def test_seven_classes_fit_and_eight_are_refused():
    bits = torch.full((2, 3, 4), 64, dtype=torch.uint8)
    logits = torch.zeros(2, 8, 3, 4)
    logits[:, 7] = 50
    loss = segmentation_loss(logits, bits, only("ce"), activation="softmax")["loss"]
    assert loss.item() == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="K from 1 to 7"):
        segmentation_loss(logits, bits, LossConfig())


def test_masks_that_do_not_fit_are_refused():
    logits, bits = example("sigmoid")
    with pytest.raises(ValueError, match="uint8"):
        segmentation_loss(logits, bits.long(), LossConfig())
    with pytest.raises(ValueError, match="do not fit"):
        segmentation_loss(logits, bits[:, :3], LossConfig())
    with pytest.raises(ValueError, match="K from 1 to 7"):
        segmentation_loss(logits[:, :1], bits, only("ce"), activation="softmax")


def test_the_wrong_cross_entropy_is_refused():
    logits, bits = example("softmax")
    with pytest.raises(ValueError, match=r"loss\.bce=0\.5 does not go with softmax.*give loss\.ce"):
        segmentation_loss(logits, bits, LossConfig(), activation="softmax")
    with pytest.raises(ValueError, match=r"loss\.ce=1\.0 does not go with sigmoid.*give loss\.bce"):
        segmentation_loss(logits, bits, only("ce"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bce": -1}, "bce=-1"),
        ({"dice": math.inf}, "dice=inf"),
        ({"bce": 0, "dice": 0}, "no term has a weight"),
        ({"bce": 0, "dice": 0, "organ": 1.0}, "no term has a weight"),
        ({"focal_alpha": 1.5}, "focal_alpha=1.5"),
        ({"focal_alpha": -0.5}, "focal_alpha=-0.5"),
        ({"focal_gamma": -2}, "focal_gamma=-2"),
        ({"tversky_alpha": 0, "tversky_beta": 0}, "must not both be 0"),
        ({"tversky_gamma": 0.75}, "tversky_gamma=0.75"),
        ({"label_smoothing": 1}, "label_smoothing=1"),
        ({"organ_weights": {"lung": -0.1}}, r"organ_weights.lung=-0.1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        LossConfig(**settings)


def test_settings_pass_through_plain_data():
    config = LossConfig(ce=1.0, organ_weights={"lung": 0.3}, ignore="blank", deep_supervision=0.5, organ=0.1)
    assert parse_dataclass(LossConfig, plain(config), "loss") == config
    assert config.weights() == {"bce": 0.5, "ce": 1.0, "dice": 0.5}
    with pytest.raises(InputError, match="not a choice"):
        parse_dataclass(LossConfig, {"ignore": "glass"}, "loss")
