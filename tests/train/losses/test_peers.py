"""Each loss term against independent peers: numpy in float64, torch's own losses, and MONAI where it is installed."""

import math

import numpy as np
import pytest
import torch

from histofold.schema.loss import LOSS_TERMS, LossConfig
from histofold.train.losses.terms import jaccard_steps, signed_distances
from histofold.train.losses.total import segmentation_loss

NOTHING = dict.fromkeys(LOSS_TERMS, 0.0)
NUMBERS = np.random.default_rng(5)
LOGITS = NUMBERS.normal(0, 3, (3, 4, 5, 8))
BITS = NUMBERS.integers(0, 16, (3, 5, 8)).astype(np.uint8)
PLANES = ((BITS[:, None] >> np.arange(4)[:, None, None]) & 1).astype(np.float64)
SOFT_LOGITS = NUMBERS.normal(0, 3, (3, 5, 5, 8))
LABELS = np.floor(np.log2(np.maximum(BITS, 0.5))).astype(int) + 1
ONE_HOT = np.eye(5)[LABELS].transpose(0, 3, 1, 2)
AXES = (0, 2, 3)


def ours(term: str, activation: str = "sigmoid", bits: np.ndarray = BITS, **settings: object) -> float:
    logits = torch.from_numpy(LOGITS if activation == "sigmoid" else SOFT_LOGITS)
    config = LossConfig(**{**NOTHING, term: 1.0, **settings})
    return segmentation_loss(logits, torch.from_numpy(bits), config, activation=activation)["loss"].item()


def probs_and_truth(activation: str) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and truth of the four classes."""
    if activation == "sigmoid":
        return 1 / (1 + np.exp(-LOGITS)), PLANES
    powers = np.exp(SOFT_LOGITS)
    return (powers / powers.sum(1, keepdims=True))[:, 1:], ONE_HOT[:, 1:]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_bce_equals_torch(smoothing):
    smoothed = torch.from_numpy(PLANES) * (1 - smoothing) + smoothing / 2
    peer = torch.nn.BCEWithLogitsLoss()(torch.from_numpy(LOGITS), smoothed)
    assert ours("bce", label_smoothing=smoothing) == pytest.approx(peer.item(), rel=1e-10)


def test_weighted_bce_equals_torch_with_ignored_pixels():
    ignored = NUMBERS.random(BITS.shape) < 0.3
    bits = np.where(ignored, BITS | 128, BITS).astype(np.uint8)
    costs = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(50.0), reduction="none")
    peer = costs(torch.from_numpy(LOGITS), torch.from_numpy(PLANES)).numpy()
    expected = peer[np.broadcast_to(~ignored[:, None], peer.shape)].mean()
    assert ours("bce", bits=bits, bce_positive_weight=50.0) == pytest.approx(expected, rel=1e-10)


def test_background_that_is_ignored_moves_nothing():
    kept = PLANES.any(axis=1)
    assert 0 < kept.sum() < kept.size
    costs = torch.nn.BCEWithLogitsLoss(reduction="none")(torch.from_numpy(LOGITS), torch.from_numpy(PLANES)).numpy()
    expected = costs[np.broadcast_to(kept[:, None], costs.shape)].mean()
    assert ours("bce", ignore="background") == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_ce_equals_torch_with_ignored_pixels(smoothing):
    ignored = NUMBERS.random(BITS.shape) < 0.3
    labels = torch.from_numpy(np.where(ignored, -7, LABELS))
    peer = torch.nn.CrossEntropyLoss(ignore_index=-7, label_smoothing=smoothing)(torch.from_numpy(SOFT_LOGITS), labels)
    bits = np.where(ignored, BITS | 128, BITS).astype(np.uint8)
    assert ours("ce", "softmax", bits, label_smoothing=smoothing) == pytest.approx(peer.item(), rel=1e-10)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("per_image", [False, True])
def test_overlap_losses_equal_their_formulas(activation, per_image):
    probs, truth = probs_and_truth(activation)
    axes = (2, 3) if per_image else AXES
    both, found, true = (probs * truth).sum(axes), probs.sum(axes), truth.sum(axes)
    settings = {"dice_per_image": per_image, "dice_smooth": 2.5}
    dice = 1 - (2 * both + 2.5) / (found + true + 2.5)
    assert ours("dice", activation, **settings) == pytest.approx(dice.mean(), rel=1e-10)
    jaccard = 1 - (both + 2.5) / (found + true - both + 2.5)
    assert ours("jaccard", activation, **settings) == pytest.approx(jaccard.mean(), rel=1e-10)
    tversky = 1 - (both + 2.5) / (both + 0.2 * (found - both) + 0.7 * (true - both) + 2.5)
    weights = {"tversky_alpha": 0.2, "tversky_beta": 0.7}
    assert ours("tversky", activation, **settings, **weights) == pytest.approx(tversky.mean(), rel=1e-10)
    focal = ours("tversky", activation, **settings, **weights, tversky_gamma=4 / 3)
    assert focal == pytest.approx((tversky**0.75).mean(), rel=1e-4)


@pytest.mark.parametrize("alpha", [-1.0, 0.25])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_equals_its_formula(alpha, gamma):
    probs, truth = probs_and_truth("sigmoid")
    right = np.where(truth == 1, probs, 1 - probs)
    weights = 1 if alpha < 0 else np.where(truth == 1, alpha, 1 - alpha)
    expected = (-weights * (1 - right) ** gamma * np.log(right)).mean()
    assert ours("focal", focal_alpha=alpha, focal_gamma=gamma) == pytest.approx(expected, rel=1e-9)
    powers = np.exp(SOFT_LOGITS)
    right = (powers / powers.sum(1, keepdims=True) * ONE_HOT).sum(1)
    weights = 1 if alpha < 0 else np.where(LABELS > 0, alpha, 1 - alpha)
    expected = (-weights * (1 - right) ** gamma * np.log(right)).mean()
    assert ours("focal", "softmax", focal_alpha=alpha, focal_gamma=gamma) == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_losses_equal_monai():
    losses = pytest.importorskip("monai.losses")
    logits, planes = torch.from_numpy(LOGITS), torch.from_numpy(PLANES)
    soft_logits, one_hot = torch.from_numpy(SOFT_LOGITS), torch.from_numpy(ONE_HOT)
    batch = {"sigmoid": True, "batch": True, "smooth_nr": 1.0, "smooth_dr": 1.0}
    assert ours("dice") == pytest.approx(losses.DiceLoss(**batch)(logits, planes).item(), rel=1e-6)
    images = {**batch, "batch": False}
    assert ours("dice", dice_per_image=True) == pytest.approx(losses.DiceLoss(**images)(logits, planes).item())
    soft = {"softmax": True, "include_background": False, "batch": True, "smooth_nr": 1.0, "smooth_dr": 1.0}
    assert ours("dice", "softmax") == pytest.approx(losses.DiceLoss(**soft)(soft_logits, one_hot).item(), rel=1e-6)
    peer = losses.TverskyLoss(alpha=0.3, beta=0.7, **batch)(logits, planes)
    assert ours("tversky") == pytest.approx(peer.item(), rel=1e-6)
    peer = losses.FocalLoss(gamma=2.0, alpha=0.25)(logits, planes)
    assert ours("focal", focal_alpha=0.25) == pytest.approx(peer.item(), rel=1e-6)


def brute_lovasz(errors: np.ndarray, truth: np.ndarray) -> float:
    """The definition: the Jaccard loss of each set of most wrong pixels, weighted by steps of error."""
    order = np.argsort(-errors, kind="stable")
    levels = np.append(errors[order], 0)
    total = 0.0
    for number in range(1, len(order) + 1):
        wrong = np.zeros(len(order), bool)
        wrong[order[:number]] = True
        found = truth.astype(bool) ^ wrong
        union = (found | truth.astype(bool)).sum()
        jaccard = (found & truth.astype(bool)).sum() / union if union else 1
        total += (1 - jaccard) * (levels[number - 1] - levels[number])
    return total


def test_lovasz_equals_its_definition():
    for activation in ("sigmoid", "softmax"):
        probs, truth = probs_and_truth(activation)
        hinges = np.maximum(1 - LOGITS * (2 * PLANES - 1), 0)
        errors = hinges if activation == "sigmoid" else np.abs(truth - probs)
        values = []
        for number in range(4):
            error, mask = errors[:, number].ravel(), truth[:, number].ravel()
            values += [brute_lovasz(error, mask), brute_lovasz(error, 1 - mask)]
        assert ours("lovasz", activation) == pytest.approx(np.mean(values), rel=1e-9)


def test_lovasz_is_the_same_of_the_complement():
    bits, config = torch.from_numpy(BITS & 1), LossConfig(**{**NOTHING, "lovasz": 1.0})
    logits = torch.from_numpy(LOGITS[:, :1])
    straight, turned = (segmentation_loss(x, m, config)["loss"] for x, m in ((logits, bits), (-logits, 1 - bits)))
    assert straight.item() == pytest.approx(turned.item(), rel=1e-12)


def test_lovasz_of_decisions_is_the_jaccard_loss_of_both_sides():
    found, true = LOGITS[:, 0] > 1, (BITS & 1) == 1
    sides = [(found, true), (~found, ~true)]
    jaccard = np.mean([1 - (found & true).sum() / (found | true).sum() for found, true in sides])
    config = LossConfig(**{**NOTHING, "lovasz": 1.0})
    certain = torch.from_numpy(np.where(found, 1e3, -1e3))
    two = torch.stack([torch.zeros_like(certain), certain], 1)
    bits = torch.from_numpy(BITS & 1)
    loss = segmentation_loss(two, bits, config, activation="softmax")["loss"]
    assert loss.item() == pytest.approx(jaccard, rel=1e-12)
    # The hinge of a wrong logit of size 1 is 2, of a right one 0.
    loss = segmentation_loss(certain[:, None] / 1e3, bits, config)["loss"]
    assert loss.item() == pytest.approx(2 * jaccard, rel=1e-12)


def test_steps_of_the_jaccard_loss_add_up_to_one():
    generator = torch.Generator().manual_seed(3)
    weights = torch.rand(5, 400, generator=generator, dtype=torch.float64)
    true = weights * (torch.rand(5, 400, generator=generator) > 0.5)
    true[3], true[4] = 0, weights[4]
    other = weights - true
    other[4, 7:] = 0
    steps = jaccard_steps(true, other)
    assert (steps >= 0).all()
    assert torch.allclose(steps.sum(1), torch.ones(5, dtype=torch.float64))
    assert (jaccard_steps(torch.zeros(1, 9), torch.zeros(1, 9)) == 0).all()


def test_steps_keep_their_digits_in_float32():
    count = 1 << 20
    true = (torch.arange(count)[None] % 8 == 0).double()
    exact = jaccard_steps(true, 1 - true)
    steps = jaccard_steps(true.float(), 1 - true.float())
    assert torch.allclose(steps.double(), exact, rtol=1e-5, atol=0)


def test_distances_equal_those_of_all_pairs():
    masks = (NUMBERS.random((2, 2, 7, 11)) < 0.3).astype(np.uint8)
    masks[0, 0], masks[1, 1] = 0, 1
    distances = signed_distances(masks)
    assert (distances[0, 0] == 1).all()
    assert (distances[1, 1] == -1).all()
    rows, columns = np.mgrid[:7, :11]
    for place in ((0, 1), (1, 0)):
        mask = masks[place]
        for y, x in np.ndindex(7, 11):
            other = mask != mask[y, x]
            nearest = np.hypot(rows[other] - y, columns[other] - x).min()
            expected = (1 - 2 * int(mask[y, x])) * (nearest - 0.5) / math.hypot(7, 11)
            assert distances[place][y, x] == pytest.approx(expected, abs=1e-6)
    assert np.array_equal(signed_distances(1 - masks), -distances)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_boundary_equals_its_formula_and_prefers_the_truth(activation):
    probs, truth = probs_and_truth(activation)
    distances = signed_distances(truth.astype(np.uint8))
    assert ours("boundary", activation) == pytest.approx((probs * distances).mean(), rel=1e-6)
    bits = torch.zeros(1, 20, 30, dtype=torch.uint8)
    bits[:, 5:12, 8:19] = 1
    config = LossConfig(**{**NOTHING, "boundary": 1.0})
    values = [
        segmentation_loss(200.0 * shifted[:, None] - 100, bits, config)["loss"].item()
        for shifted in (bits, bits.roll(1, 1), bits.roll(3, 1), bits.roll(8, 2))
    ]
    assert values == sorted(values)
    assert values[0] < 0


LENGTHS = {0: 0.0, 1: math.sqrt(0.5), 3: 1.0, 5: math.sqrt(2)}


def edge_lengths(mask_HW: np.ndarray) -> np.ndarray:
    """Length of marching squares in each cell of a mask with background around it, one cell after the other."""
    around = np.pad(mask_HW, 1).astype(int)
    lengths = np.zeros((around.shape[0] - 1, around.shape[1] - 1))
    for y, x in np.ndindex(lengths.shape):
        ring = [around[y, x], around[y, x + 1], around[y + 1, x + 1], around[y + 1, x]]
        turns = [[*ring[turn:], *ring[:turn]] for turn in range(4)]
        codes = [sum(bit << place for place, bit in enumerate(turn)) for turn in turns]
        lengths[y, x] = LENGTHS[min(min(codes), min(15 - code for code in codes))]
    return lengths


def test_surface_of_certain_answers_is_the_surface_dice_of_masks():
    truth, found = (NUMBERS.random((2, 9, 7)) < 0.4).astype(np.uint8)
    true, other = edge_lengths(truth), edge_lengths(found)
    common = (true + other)[(true > 0) & (other > 0)].sum()
    assert 0 < common < (true + other).sum()
    logits = torch.from_numpy(200.0 * found - 100)[None, None]
    config = LossConfig(**{**NOTHING, "surface": 1.0, "dice_smooth": 0.0})
    loss = segmentation_loss(logits, torch.from_numpy(truth)[None], config)["loss"].item()
    assert loss == pytest.approx(1 - common / (true + other).sum(), rel=1e-9)


@pytest.mark.parametrize(
    ("activation", "term"), [("sigmoid", "bce"), ("softmax", "ce"), *[(a, t) for a in ("sigmoid", "softmax") for t in
    ("dice", "jaccard", "tversky", "focal", "lovasz", "boundary", "surface")]],
)  # fmt: skip
def test_gradients_equal_differences(activation, term):
    logits = (
        torch.from_numpy(LOGITS if activation == "sigmoid" else SOFT_LOGITS)[:2, :, :2, :3].clone().requires_grad_()
    )
    bits = torch.from_numpy(BITS)[:2, :2, :3].clone()
    bits[0, 0, 0] |= 128
    config = LossConfig(**{**NOTHING, term: 1.0})
    weights = torch.tensor([1.0, 0.4], dtype=torch.float64)

    def loss(values: torch.Tensor) -> torch.Tensor:
        return segmentation_loss(values, bits, config, activation=activation, weights_N=weights)["loss"]

    assert torch.autograd.gradcheck(loss, (logits,))
