"""One image under the clock."""

import dataclasses
import time

import numpy as np
import pytest
import torch

from histofold.predict.stages import Level, Networks, OutOfTimeError, build_stages
from histofold.predict.submission.budget import Budget
from histofold.predict.submission.pacing import ImagePacer, WorkAhead
from histofold.predict.tiled import TileBatch
from histofold.schema.manifest import Manifest
from histofold.schema.preprocessing import Preprocessing
from small_stages import stages_of_models

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
