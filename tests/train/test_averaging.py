"""Equal averages of weights: along a run, and of files."""

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from histofold.schema.optim import OptimConfig
from histofold.train.optim import WeightAverage, decay_words

STEPS = 23
CONFIG = OptimConfig(ema=0.0, average_from=0.5, average_every=3)
TAKEN = [13, 16, 19, 22]
"""The steps (from 0) in the later half whose distance from the last one is a multiple of three."""


def small_network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))


def disturb(model, step):
    """What a step of training does to weights and statistics, in a way that hangs on the step alone."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
        model.train()(torch.randn(2, 3, 6, 5, generator=generator))


def test_the_average_is_torchs_over_the_steps_that_count():
    model = small_network()
    average, peer, seen = WeightAverage(model, STEPS, CONFIG), AveragedModel(small_network(), use_buffers=True), []
    for step in range(STEPS):
        disturb(model, step)
        count = average.count
        average.update(model, step)
        if average.count > count:
            seen.append(step)
            peer.update_parameters(model)
    assert seen == TAKEN
    states = average.module.state_dict(), peer.module.state_dict()
    for name in states[0]:
        if name.endswith("num_batches_tracked"):
            assert states[0][name] == STEPS
        else:
            torch.testing.assert_close(states[0][name], states[1][name], rtol=1e-6, atol=1e-7)


def test_it_is_the_mean_of_the_weights():
    model, weights, means = small_network(), [], []
    average = WeightAverage(model, STEPS, CONFIG)
    for step in range(STEPS):
        disturb(model, step)
        average.update(model, step)
        if step in TAKEN:
            weights.append(model[0].weight.detach().clone())
            means.append(model[1].running_mean.clone())
    torch.testing.assert_close(average.module[0].weight, torch.stack(weights).mean(0))
    torch.testing.assert_close(average.module[1].running_mean, torch.stack(means).mean(0))
    assert not average.module.training
    assert not any(parameter.requires_grad for parameter in average.module.parameters())


def test_before_the_first_weights_the_network_itself_is_meant():
    model = small_network()
    average = WeightAverage(model, STEPS, CONFIG)
    assert average.averaged(model) is model
    average.update(model, TAKEN[0])
    assert average.averaged(model) is average.module


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("every", [1, 3, 1000])
def test_the_last_weights_are_always_among_them(share, every):
    model = small_network()
    average = WeightAverage(model, STEPS, OptimConfig(ema=0.0, average_from=share, average_every=every))
    for step in range(STEPS - 1):
        average.update(model, step)
    count = average.count
    average.update(model, STEPS - 1)
    assert average.count == count + 1


@pytest.mark.parametrize("stop", [5, 15, 20])
def test_a_saved_average_goes_on_to_the_bit(stop, tmp_path):
    whole_model, model = small_network(), small_network()
    whole, first = WeightAverage(whole_model, STEPS, CONFIG), WeightAverage(model, STEPS, CONFIG)
    for step in range(STEPS):
        disturb(whole_model, step)
        whole.update(whole_model, step)
    for step in range(stop):
        disturb(model, step)
        first.update(model, step)
    torch.save(first.state_dict(), tmp_path / "average.pt")
    second = WeightAverage(small_network(), STEPS, CONFIG)
    second.load_state_dict(torch.load(tmp_path / "average.pt", weights_only=True))
    for step in range(stop, STEPS):
        disturb(model, step)
        second.update(model, step)
    assert second.count == whole.count == len(TAKEN)
    for name, tensor in whole.module.state_dict().items():
        assert torch.equal(tensor, second.module.state_dict()[name])


def test_a_run_too_short_for_its_decay_says_where_it_ends():
    assert decay_words(0.99, 100) == decay_words(0.0, 5) == ""
    assert decay_words(0.999, 401) == "optim.ema=0.999 wants 1000 steps and there are 401: it ends at 0.9975"
