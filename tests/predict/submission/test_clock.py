"""What time allows: the budget, and one image under it."""

import dataclasses
import time

import numpy as np
import pytest
import torch

from histofold.predict.stages import Level, Networks, OutOfTimeError, build_stages
from histofold.predict.submission.clock import Budget, ImagePacer, WorkAhead
from histofold.predict.tiled import TileBatch
from histofold.schema.manifest import Manifest
from histofold.schema.preprocessing import Preprocessing
from small_stages import stages_of_models


def budget_after(seconds_spent, limit_s, seconds=0.0, work=0.0):
    started = time.monotonic() - seconds_spent
    return Budget(limit_s, started=started, batches=9, forward_s=seconds, forward_work=work)


def megapixels(count):
    return lambda level: count * level.members * level.views


def test_no_limit_means_everything():
    assert budget_after(1e9, None, 10.0, 10.0).affordable(megapixels(1e9), Level(5, 8)) == Level(5, 8)


def test_before_anything_is_measured_everything_is_tried():
    assert budget_after(0, 3600).affordable(megapixels(1e9), Level(5, 8)) == Level(5, 8)


def test_views_go_first_then_members_then_everything():
    # 1 s for a megapixel and pass; 3600 - 300 s of reserve are left.
    def affordable(count, beside_s=0.0):
        return budget_after(0, 3600, 10.0, 10.0).affordable(megapixels(count), Level(5, 8), beside_s)

    assert affordable(80) == Level(5, 8)
    assert affordable(100) == Level(5, 6)
    assert affordable(100, beside_s=700) == Level(5, 5)
    assert affordable(600) == Level(5, 1)
    assert affordable(1000) == Level(3, 1)
    assert affordable(3000) == Level(1, 1)
    assert affordable(10_000) == Level(1, 1)
    with pytest.raises(OutOfTimeError):
        budget_after(3301, 3600, 10.0, 10.0).affordable(megapixels(1), Level(5, 8))


def test_the_first_batch_of_each_device_and_network_pays_for_warming_up():
    budget = Budget(100.0)
    for where in ("cuda:0 0", "cuda:1 0", "cuda:0 1"):
        budget.record_batch(50.0, 0.2, where)
    assert budget.rate() is None
    budget.record_batch(6.0, 6.0, "cuda:0 0")
    assert budget.rate() is None
    budget.record_batch(6.0, 6.0, "cuda:1 0")
    assert budget.rate() == 1.0


def test_one_slow_stretch_is_forgotten():
    budget = Budget(100.0)
    budget.record_batch(1.0, 1.0)
    for _ in range(20):
        budget.record_batch(10.0, 1.0)
    for _ in range(200):
        budget.record_batch(1.0, 1.0)
    assert 1.0 < budget.rate() < 1.2


def beside(costs, images_left, megapixels_left):
    """The forecast after images of (seconds, megapixels); the first one pays for warming up."""
    budget = Budget(100.0)
    budget.record_image(99.0, 1.0)
    for seconds, size in costs:
        budget.record_image(seconds, size)
    return budget.beside_s(images_left, megapixels_left)


def test_what_images_cost_beside_their_passes_is_told_by_number_and_by_size():
    assert beside([], 10, 10.0) == 0.0
    sizes = [1.0, 2.0, 5.0, 9.0, 20.0]
    assert beside([(2.0, size) for size in sizes], 100, 37.0) == pytest.approx(200.0), "so much an image"
    assert beside([(0.1 * size, size) for size in sizes], 100, 37.0) == pytest.approx(3.7), "so much a megapixel"
    assert beside([(2.0 + 0.1 * size, size) for size in sizes], 10, 50.0) == pytest.approx(25.0), "both"


def test_of_images_of_one_size_the_higher_forecast_counts_once_there_are_some():
    assert beside([(2.0, 4.0)] * 3, 10, 400.0) == pytest.approx(20.0)
    assert beside([(2.0, 4.0)] * 30, 10, 400.0) == pytest.approx(200.0)
    assert beside([(2.0, 4.0)] * 30, 1000, 4.0) == pytest.approx(2000.0)


def test_slow_small_images_leave_nothing_out():
    budget = Budget(9 * 3600.0)
    for _ in range(3):
        budget.record_batch(0.05, 0.0256 * 8)
        budget.record_image(15.0, 0.0256)
    assert budget.affordable(megapixels(2200), Level(4, 2), budget.beside_s(550, 2200)) == Level(4, 2)


def test_blank_tiles_make_the_forecast_smaller():
    budget = Budget(100.0)
    assert budget.seen_share() == 1.0
    budget.record_image(1.0, 10.0, 2.5)
    assert budget.seen_share() == 0.25


VIEWS = ("identity", "hflip", "vflip", "rot180")
MANIFEST = Manifest(competition="folder", preprocessing=Preprocessing(normalise="none"), views=VIEWS)
BATCH = TileBatch([None, None], [0, 1], np.zeros((2, 500, 500, 3), np.uint8))  # half a megapixel


class Counted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, images_NCHW):
        self.calls += 1
        return images_NCHW[:, :1]


@pytest.fixture
def stages():
    return stages_of_models([Counted(), Counted(), Counted()], MANIFEST)


def pacer_of(stages, budget, own=10.0, later=0.0):
    said = []
    pacer = ImagePacer(budget, stages, [own], WorkAhead((later,), 0), said.append)
    return pacer, said


def calls(stages):
    return [net.calls for net in stages[0].networks[0].models]


def forward(pacer, stage, batch=BATCH):
    for networks in stage.networks:
        pacer.forward(stage, networks, batch)


def test_without_a_limit_everything_works(stages):
    pacer, said = pacer_of(stages, Budget(None))
    (stage,) = pacer.begin()
    assert pacer.level == pacer.full == Level(3, 4)
    forward(pacer, stage)
    assert calls(stages) == [4, 4, 4]
    assert said == []
    assert pacer.seen == 0.5


def test_the_level_falls_in_the_middle_of_an_image_and_is_said(stages):
    budget = Budget(1000.0, started=time.monotonic(), batches=5, forward_s=10.0, forward_work=10.0)
    pacer, said = pacer_of(stages, budget, own=10.0, later=40.0)
    (stage,) = pacer.begin()
    assert pacer.level == Level(3, 4)
    forward(pacer, stage)
    budget.forward_s *= 5  # everything takes five times as long from here on
    forward(pacer, stage)
    assert pacer.level == Level(3, 1) or pacer.level.views < 4
    assert calls(stages)[0] == 4 + pacer.level.views
    assert len(said) == 1
    assert "of 4 views" in said[0]
    budget.forward_s /= 100
    forward(pacer, stage)
    assert pacer.level.views < 4, "within an image nothing comes back"


def test_when_the_time_is_over_a_batch_is_refused(stages):
    budget = Budget(10.0, started=time.monotonic())
    pacer, _ = pacer_of(stages, budget)
    (stage,) = pacer.begin()
    budget.started -= 6
    with pytest.raises(OutOfTimeError):
        forward(pacer, stage)
    assert calls(stages) == [0, 0, 0]


def test_copies_on_two_devices_share_the_clock():
    stages = stages_of_models([Counted(), Counted(), Counted()], MANIFEST, copies=2)
    budget = Budget(None)
    pacer, _ = pacer_of(stages, budget)
    (stage,) = pacer.begin()
    forward(pacer, stage)
    assert pacer.seen == 1.0
    assert budget.batches == 1, "the first one warms up"
    assert budget.forward_work == 0.5 * 12


def test_blank_tiles_are_no_work_that_is_left(stages):
    budget = Budget(None, batches=5, forward_s=10.0, forward_work=10.0)
    pacer, _ = pacer_of(stages, budget, own=10.0)
    (stage,) = pacer.begin()
    forward(pacer, stage, TileBatch([None] * 36, [], BATCH.images[:0]))  # 9 of 10 megapixels
    budget.limit_s = 28.0  # 14 s for 12 passes of what is left, 1 s each
    forward(pacer, stage, TileBatch([], [], BATCH.images[:0]))
    assert pacer.level == Level(3, 4)
    assert pacer.seen == 0.0
    assert calls(stages) == [0, 0, 0]


def test_stages_that_were_not_begun_are_no_work_of_this_image():
    seen = [dataclasses.replace(MANIFEST, views=("identity",), min_area_um2=float(place)) for place in range(4)]
    networks = Networks([Counted() for _ in seen], torch.device("cpu"), torch.float32)
    stages = build_stages([networks], [(manifest, 1.0) for manifest in seen])
    # 1 s a megapixel and pass, four passes of 10 megapixels, and time for 35 of the 40 seconds.
    budget = Budget(70.0, started=time.monotonic(), batches=5, forward_s=10.0, forward_work=10.0)
    pacer = ImagePacer(budget, stages, [10.0] * 4, WorkAhead((0.0,) * 4, 0), lambda words: None)
    assert [stage.place for stage in pacer.begin()] == [0, 1, 2]
    assert pacer.level == Level(3, 1)
    assert pacer.begun == 30.0
