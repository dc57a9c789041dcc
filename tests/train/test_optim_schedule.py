"""Learning rates: equality with torch's schedulers step by step, warm-up, and what the functions do not depend on."""

import math

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from histofold.schema.optim import OptimConfig
from histofold.train.schedule import learning_rate, momentum_of, plateau_falls, schedule_table

STEPS = 60
BARE = {"lr": 0.3, "warmup": 0.0}


def rates_of(config, steps=STEPS, steps_per_epoch=7.5, scores=()):
    return [learning_rate(k, steps, config, steps_per_epoch=steps_per_epoch, scores=scores) for k in range(steps)]


def peer(make_scheduler, steps=STEPS, optimizer=None):
    """Learning rate and momentum of torch's scheduler at each step."""
    optimizer = optimizer or torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3, momentum=0.9)
    scheduler = make_scheduler(optimizer)
    rows = []
    for _ in range(steps):
        group = optimizer.param_groups[0]
        rows.append((group["lr"], group["momentum"] if "momentum" in group else group["betas"][0]))
        optimizer.step()
        scheduler.step()
    return tuple(np.array(rows).T)


def test_cosine_warms_up_and_decays_to_its_end():
    rates = rates_of(OptimConfig(lr=1.0, warmup=0.1, final_lr=0.01), 100)
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.01)
    assert rates[10 + 45] == pytest.approx(0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * 45 / 89)))


def test_cosine_equals_torch():
    rates, _ = peer(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, STEPS - 1, eta_min=0.3 * 0.02))
    np.testing.assert_allclose(rates_of(OptimConfig(**BARE, final_lr=0.02)), rates, rtol=1e-9)


def test_poly_equals_torch():
    rates, _ = peer(lambda optimizer: lr_scheduler.PolynomialLR(optimizer, STEPS, 0.9))
    config = OptimConfig(**BARE, schedule="poly", final_lr=0.0)
    np.testing.assert_allclose(rates_of(config), rates, rtol=1e-9)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.77])
@pytest.mark.parametrize("steps", [11, 61, 200])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_one_cycle_equals_torch_in_rate_and_momentum(steps, share, optimizer):
    high = {"momentum": 0.95} if optimizer == "sgd" else {"betas": (0.95, 0.999)}
    ends = {"start_lr": 0.05, "final_lr": 0.001, "low_momentum": 0.8}
    config = OptimConfig(optimizer=optimizer, schedule="one_cycle", lr=0.3, warmup=share, **ends, **high)
    factors = {"div_factor": 1 / 0.05, "final_div_factor": 0.05 / 0.001, "base_momentum": 0.8, "max_momentum": 0.95}
    make = torch.optim.SGD if optimizer == "sgd" else torch.optim.AdamW
    rates, momenta = peer(
        lambda made: lr_scheduler.OneCycleLR(made, 0.3, total_steps=steps, pct_start=share, **factors),
        steps,
        make([torch.nn.Parameter(torch.zeros(1))], lr=0.3, **high),
    )
    np.testing.assert_allclose(rates_of(config, steps), rates, rtol=1e-9)
    np.testing.assert_allclose([momentum_of(k, steps, config) for k in range(steps)], momenta, rtol=1e-9)


def test_one_cycle_without_a_rise_starts_at_its_peak():
    rates = rates_of(OptimConfig(schedule="one_cycle", lr=0.3, warmup=0.0, final_lr=0.0), 10)
    assert rates == sorted(rates, reverse=True)
    assert (rates[0], rates[-1]) == (0.3, 0.0)


@pytest.mark.parametrize("step_epochs", [1, 3])
def test_step_equals_torch_by_epochs(step_epochs):
    steps_per_epoch, epochs = 8, 10
    config = OptimConfig(**BARE, schedule="step", gamma=0.7, step_epochs=step_epochs)
    rates, _ = peer(lambda optimizer: lr_scheduler.StepLR(optimizer, step_epochs, 0.7), epochs)
    ours = rates_of(config, epochs * steps_per_epoch, steps_per_epoch)
    np.testing.assert_allclose(ours, np.repeat(rates, steps_per_epoch), rtol=1e-9)
    if step_epochs == 1:
        exponential, _ = peer(lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.7), epochs)
        np.testing.assert_allclose(ours[::steps_per_epoch], exponential, rtol=1e-9)


@pytest.mark.parametrize("tiles", [7, 10, 49, 333])
def test_an_epoch_that_ends_on_a_whole_step_falls_at_that_step(tiles):
    batch = 3
    config = OptimConfig(**BARE, schedule="step", gamma=0.5)
    rates = rates_of(config, 4 * tiles, tiles / batch)
    wanted = [0.3 * 0.5 ** (step * batch // tiles) for step in range(4 * tiles)]
    assert rates == pytest.approx(wanted)


def test_multi_step_equals_torch():
    config = OptimConfig(**BARE, schedule="multi_step", gamma=0.2, milestones=(0.25, 0.5, 0.9))
    rates, _ = peer(lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [15, 30, 54], 0.2))
    np.testing.assert_allclose(rates_of(config), rates, rtol=1e-9)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("patience", [0, 1, 3])
def test_plateau_equals_torch_fed_the_same_scores(seed, patience):
    generator = np.random.default_rng(seed)
    scores = np.round(np.minimum(0.1 * np.arange(40), 0.8) + generator.normal(0, 0.05, 40), 2).tolist()
    scores[17] = math.nan
    config = OptimConfig(**BARE, schedule="plateau", gamma=0.5, final_lr=0.02, plateau_patience=patience)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler = lr_scheduler.ReduceLROnPlateau(
        optimizer, "max", 0.5, patience, 1e-4, threshold_mode="abs", min_lr=0.3 * 0.02
    )
    seen = []
    for count, score in enumerate(scores):
        ours = learning_rate(count, STEPS, config, steps_per_epoch=1, scores=scores[:count])
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        seen.append(ours)
        scheduler.step(score)
    assert len(set(seen)) > 1


def test_plateau_counts_only_what_exceeds_the_gain():
    assert plateau_falls([], 0, 0.0) == 0
    assert plateau_falls([0.5], 0, 0.0) == 0
    assert plateau_falls([0.5, 0.5], 0, 0.0) == 1
    assert plateau_falls([0.5, 0.51, 0.52, 0.53], 1, 0.015) == 0
    assert plateau_falls([0.5, 0.505, 0.51], 1, 0.02) == 1


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step", "multi_step", "plateau", "poly"])
def test_warm_up_multiplies_every_schedule_and_ends_at_one(schedule):
    steps, warmup = 40, 10
    warmed = rates_of(OptimConfig(lr=2.0, schedule=schedule, warmup=warmup / steps), steps, steps)
    assert warmed[:warmup] == pytest.approx([2.0 * (k + 1) / warmup for k in range(warmup)])
    assert max(warmed) == 2.0
    if schedule not in ("cosine", "poly"):  # these two spread over what the warm-up leaves
        assert warmed[warmup:] == rates_of(OptimConfig(lr=2.0, schedule=schedule, warmup=0.0), steps, steps)[warmup:]


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle", "step", "multi_step", "plateau", "poly"])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_rates_of_short_runs_stay_between_zero_and_the_peak(schedule, warmup, steps):
    rates = rates_of(OptimConfig(lr=0.3, schedule=schedule, warmup=warmup), steps)
    assert all(0 < rate <= 0.3 * (1 + 1e-12) for rate in rates)


def test_the_table_holds_every_step():
    config = OptimConfig(schedule="one_cycle", low_momentum=0.8, warmup=0.3)
    table = schedule_table(50, config, steps_per_epoch=9.0)
    assert table["step"].tolist() == list(range(50))
    assert table["lr"].tolist() == rates_of(config, 50)
    assert table["momentum"].min() == pytest.approx(0.8)
    assert table["momentum"].iloc[0] == pytest.approx(0.9)
    assert set(schedule_table(5, OptimConfig(optimizer="sgd"), steps_per_epoch=1.0)["momentum"]) == {0.9}
