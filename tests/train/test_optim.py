"""Optimisers: groups, rates, decay, and states that go on to the bit."""

import copy

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from histofold.core.faults import InputError
from histofold.schema.optim import OptimConfig
from histofold.train.optim import make_optimizer, set_rates

pytestmark = pytest.mark.usefixtures("precision")

OPTIMIZERS = ("sgd", "adam", "adamw", "radam", "ranger")
STEPS, STOP = 20, 13


class SmallNetwork(torch.nn.Module):
    """An encoder and a head, as every network here has them."""

    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.BatchNorm2d(5), torch.nn.ReLU())
        self.head = torch.nn.Conv2d(5, 2, 1)

    def forward(self, images_NCHW):
        return self.head(self.encoder(images_NCHW))


class Wrapped(torch.nn.Module):
    """A training network around a plain one, with a head of its own."""

    def __init__(self):
        super().__init__()
        self.model = SmallNetwork()
        self.organ = torch.nn.Linear(5, 3)


def small_network():
    torch.manual_seed(0)
    return SmallNetwork().to(memory_format=torch.channels_last)


def train(model, optimizer, steps, config):
    """Steps on images that hang on the step alone."""
    for step in steps:
        set_rates(optimizer, step, STEPS, config, steps_per_epoch=5.0)
        images = torch.randn(2, 3, 9, 7, generator=torch.Generator().manual_seed(step))
        model(images.contiguous(memory_format=torch.channels_last)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def config_of(optimizer, **settings):
    schedule = {"schedule": "one_cycle", "warmup": 0.3, "low_momentum": 0.8}
    return OptimConfig(optimizer=optimizer, lr=0.01, encoder_lr_factor=0.25, **schedule, **settings)


def states_equal(one, other):
    flat, other_flat = torch.utils._pytree.tree_flatten(one), torch.utils._pytree.tree_flatten(other)
    pairs = zip(flat[0], other_flat[0], strict=True)
    same = all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)
    return same and flat[1] == other_flat[1]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("stop", [STOP, 12, 1])
def test_a_saved_run_goes_on_to_the_bit(name, stop, tmp_path):
    config = config_of(name)
    whole = small_network()
    whole_optimizer = make_optimizer(whole, config)
    train(whole, whole_optimizer, range(STEPS), config)

    first = small_network()
    optimizer = make_optimizer(first, config)
    train(first, optimizer, range(stop), config)
    torch.save({"model": first.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    second = small_network()
    second.load_state_dict(state["model"])
    resumed = make_optimizer(second, config)
    resumed.load_state_dict(state["optimizer"])
    assert [group["lr_factor"] for group in resumed.param_groups] == [1.0, 1.0, 0.25, 0.25]
    train(second, resumed, range(stop, STEPS), config)

    assert states_equal(dict(whole.state_dict()), dict(second.state_dict()))
    assert states_equal(whole_optimizer.state_dict(), resumed.state_dict())
    assert not torch.equal(whole.head.weight, first.head.weight)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_accelerate_hands_the_rates_through(name):
    config = config_of(name)
    bare, prepared = small_network(), small_network()
    train(bare, make_optimizer(bare, config), range(STEPS), config)
    AcceleratorState._reset_state()  # a training before may have left its precision
    model, optimizer = Accelerator(cpu=True).prepare(prepared, make_optimizer(prepared, config))
    train(model, optimizer, range(STEPS), config)
    assert states_equal(dict(bare.state_dict()), dict(prepared.state_dict()))


@pytest.mark.parametrize("make", [SmallNetwork, Wrapped])
def test_every_parameter_is_in_one_group_and_the_encoder_has_its_own(make):
    model = make()
    plain = getattr(model, "model", model)
    config = OptimConfig(encoder_lr_factor=0.1, weight_decay=0.3)
    groups = make_optimizer(model, config).param_groups
    factors = {id(p): group["lr_factor"] for group in groups for p in group["params"]}
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(factors) == len(list(model.parameters()))
    encoder = {id(p) for p in plain.encoder.parameters()}
    assert factors == {id(p): 0.1 if id(p) in encoder else 1.0 for p in model.parameters()}
    assert decays == {id(p): 0.3 if p.ndim > 1 else 0.0 for p in model.parameters()}


def test_frozen_parameters_and_empty_groups_are_left_out():
    model = SmallNetwork()
    model.encoder.requires_grad_(False)
    model.head.bias.requires_grad_(False)
    (group,) = make_optimizer(model, OptimConfig(encoder_lr_factor=0.5)).param_groups
    assert [p is model.head.weight for p in group["params"]] == [True]


def test_without_an_encoder_there_is_no_rate_for_it():
    model = torch.nn.Conv2d(1, 1, 1)
    assert [group["lr_factor"] for group in make_optimizer(model, OptimConfig()).param_groups] == [1.0, 1.0]
    with pytest.raises(InputError, match="Conv2d has no encoder"):
        make_optimizer(model, OptimConfig(encoder_lr_factor=0.5))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_factor_of_zero_keeps_the_encoder(name):
    model = small_network()
    before = copy.deepcopy(model)
    config = OptimConfig(optimizer=name, encoder_lr_factor=0.0, schedule="constant")
    train(model, make_optimizer(model, config), range(8), config)
    pairs = zip(model.encoder.parameters(), before.encoder.parameters(), strict=True)
    assert all(torch.equal(new, old) for new, old in pairs)
    assert not torch.equal(model.head.weight, before.head.weight)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_decay_is_decoupled_or_a_term_of_the_gradient_as_said(name):
    """Without a gradient, decoupled decay scales by 1 - lr * decay; L2 feeds lr * decay * weight to the optimiser."""
    parameter = torch.nn.Parameter(torch.full((2, 2), 3.0))
    config = OptimConfig(optimizer=name, lr=0.1, weight_decay=0.5, **({"momentum": 0.0} if name == "sgd" else {}))
    optimizer = make_optimizer(torch.nn.ParameterList([parameter]), config)
    parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    scaled = 3.0 * (1 - 0.1 * 0.5)
    # Adam divides its L2 term by its own size: the first step is the learning rate, whatever the decay.
    assert parameter[0, 0].item() == pytest.approx(3.0 - 0.1 if name == "adam" else scaled, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, 0.01, 0.9, weight_decay=0.1)),
        ("adam", lambda p: torch.optim.Adam(p, 0.01, (0.8, 0.99), 1e-6, 0.1)),
        ("adamw", lambda p: torch.optim.AdamW(p, 0.01, (0.8, 0.99), 1e-6, 0.1)),
        ("radam", lambda p: torch.optim.RAdam(p, 0.01, (0.8, 0.99), 1e-6, 0.1, decoupled_weight_decay=True)),
    ],
)
def test_the_settings_reach_the_optimiser(name, peer):
    settings = {} if name == "sgd" else {"betas": (0.8, 0.99), "eps": 1e-6}
    config = OptimConfig(optimizer=name, lr=0.01, weight_decay=0.1, schedule="constant", warmup=0.0, **settings)
    torch.manual_seed(0)
    ours = torch.nn.Conv2d(3, 4, 3, bias=False)
    theirs = copy.deepcopy(ours)
    train(ours, make_optimizer(ours, config), range(10), config)
    optimizer = peer(theirs.parameters())
    for step in range(10):
        images = torch.randn(2, 3, 9, 7, generator=torch.Generator().manual_seed(step))
        theirs(images).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-5, atol=1e-7)


def test_ranger_goes_half_the_way_back_every_sixth_step():
    """Of two equal runs, RAdam's and Ranger's, the first six steps are the same; the twelfth ends at the middle."""
    fast, slow = small_network(), small_network()
    settings = {"lr": 0.01, "schedule": "constant", "warmup": 0.0}
    radam, ranger = OptimConfig(optimizer="radam", **settings), OptimConfig(optimizer="ranger", **settings)
    fast_optimizer, slow_optimizer = make_optimizer(fast, radam), make_optimizer(slow, ranger)
    for step in range(6):
        train(fast, fast_optimizer, [step], radam)
        train(slow, slow_optimizer, [step], ranger)
    kept = slow.head.weight.detach().clone()
    assert torch.equal(kept, fast.head.weight)
    for step in range(6, 12):
        train(fast, fast_optimizer, [step], radam)
        train(slow, slow_optimizer, [step], ranger)
    torch.testing.assert_close(slow.head.weight, (kept + fast.head.weight) / 2)


def test_rates_go_to_every_group_with_its_factor():
    config = config_of("adamw")
    optimizer = make_optimizer(SmallNetwork(), config)
    rate = set_rates(optimizer, 5, STEPS, config, steps_per_epoch=5.0)
    assert rate == pytest.approx(0.01)
    assert [group["lr"] for group in optimizer.param_groups] == [rate, rate, rate * 0.25, rate * 0.25]
    assert [group["betas"] for group in optimizer.param_groups] == [pytest.approx((0.8, 0.999))] * 4
