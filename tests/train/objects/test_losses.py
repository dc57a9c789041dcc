"""The losses of networks of objects: against a reference, at a perfect answer, where pixels do not count."""

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from histofold.core.faults import InputError
from histofold.data.tiles.labels import IGNORED_LABEL
from histofold.data.tiles.masks import IGNORED_BIT
from histofold.schema.loss import LossConfig
from histofold.train.objects.losses import dense_losses, detector_losses
from histofold.train.objects.targets import BOUNDARY_BIT, DISTANCE_ONE, collate_examples, dense_example
from object_scenes import random_labels

CONFIG = LossConfig(object_boundary=2.0, object_distance=0.5)


def batch_of(seeds, ignored=True):
    labels = [
        np.kron(random_labels(np.random.default_rng(s), (6, 8)), np.ones((5, 5))).astype(np.uint16) for s in seeds
    ]
    for labels_HW in labels:
        labels_HW[3:9, 4:30] = IGNORED_LABEL if ignored else labels_HW[3:9, 4:30]
    return collate_examples([dense_example(np.zeros((*each.shape, 3), np.uint8), each) for each in labels])


def random_logits(batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((len(batch["mask"]), 3, *batch["mask"].shape[1:]), generator=generator, requires_grad=True)


def perfect_logits(batch, size=30.0):
    shares = (batch["distance"].double() / DISTANCE_ONE).clamp(1e-9, 1 - 1e-9)
    planes = [(batch["mask"] & bit > 0).double() * 2 * size - size for bit in (1, BOUNDARY_BIT)]
    return torch.stack([*planes, torch.logit(shares)], 1)


def test_each_part_is_a_mean_over_the_pixels_that_count():
    batch = batch_of(range(3))
    logits = random_logits(batch)
    losses = dense_losses(logits, batch, CONFIG)
    counts = batch["mask"] < IGNORED_BIT
    boundary = binary_cross_entropy_with_logits(
        logits[:, 1][counts], (batch["mask"] & BOUNDARY_BIT > 0)[counts].float()
    )
    assert losses["loss_object_boundary"].item() == pytest.approx(boundary.item(), rel=1e-5)
    shares = (batch["distance"].float() / DISTANCE_ONE)[counts]
    least = binary_cross_entropy_with_logits(torch.logit(shares.double()).clamp(-50, 50), shares.double())
    distance = binary_cross_entropy_with_logits(logits[:, 2][counts], shares) - least
    assert losses["loss_object_distance"].item() == pytest.approx(distance.item(), rel=1e-4)
    parts = 0.5 * losses["loss_bce"] + 0.5 * losses["loss_dice"]
    parts = parts + 2.0 * losses["loss_object_boundary"] + 0.5 * losses["loss_object_distance"]
    assert losses["loss"].item() == pytest.approx(parts.item(), rel=1e-5)


def test_a_perfect_answer_costs_nothing_and_a_worse_one_more():
    batch = batch_of(range(4))
    perfect = dense_losses(perfect_logits(batch), batch, CONFIG)
    for name in ("loss_bce", "loss_dice", "loss_object_boundary", "loss_object_distance"):
        assert perfect[name].item() == pytest.approx(0, abs=1e-6)
    worse = dense_losses(perfect_logits(batch) / 10, batch, CONFIG)
    assert all(worse[name] > perfect[name] for name in perfect)


def test_ignored_pixels_have_no_gradient_in_any_channel():
    batch = batch_of([1, 2])
    logits = random_logits(batch)
    dense_losses(logits, batch, CONFIG)["loss"].backward()
    ignored = (batch["mask"] >= IGNORED_BIT)[:, None].expand_as(logits)
    assert not logits.grad[ignored].any()
    assert logits.grad[~ignored].all()


def test_an_example_of_weight_0_is_as_good_as_absent():
    batch, one = batch_of([1, 2]), batch_of([2])
    logits = random_logits(batch)
    weighted = dense_losses(logits, batch, CONFIG, weights_N=torch.tensor([0.0, 1.0]))
    alone = dense_losses(logits[1:], one, CONFIG)
    for name, value in alone.items():
        assert weighted[name].item() == pytest.approx(value.item(), rel=1e-5)


def test_a_batch_of_which_nothing_counts_costs_nothing_with_a_graph():
    batch = batch_of([0])
    batch["mask"][:] = IGNORED_BIT
    logits = random_logits(batch)
    loss = dense_losses(logits, batch, CONFIG)["loss"]
    loss.backward()
    assert loss.item() == 0


def test_a_detectors_losses_are_weighted_by_name_and_logged_without_weights():
    given = {"loss_mask": torch.tensor(2.0, dtype=torch.bfloat16), "dice": torch.tensor(3.0, requires_grad=True)}
    losses = detector_losses(given, LossConfig(detector={"dice": 0.5}))
    assert {name: value.item() for name, value in losses.items()} == {"loss": 3.5, "loss_mask": 2.0, "loss_dice": 3.0}
    assert losses["loss"].dtype == torch.float32
    with pytest.raises(InputError, match=r"loss.detector.masks.*it has mask, dice"):
        detector_losses(given, LossConfig(detector={"masks": 0.5}))
    with pytest.raises(ValueError, match=r"detector.mask=-1"):
        LossConfig(detector={"mask": -1.0})
