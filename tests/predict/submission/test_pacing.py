"""One image under the clock."""

import dataclasses
import time

import numpy as np
import pytest
import torch

from histofold.predict.ensemble import Ensemble
from histofold.predict.joint import JointEnsemble, JointPart
from histofold.predict.submission.budget import Budget, OutOfTimeError
from histofold.predict.submission.pacing import ImagePacer, WorkAhead
from histofold.schema.manifest import Manifest
from histofold.schema.preprocessing import Preprocessing

VIEWS = ("identity", "hflip", "vflip", "rot180")
TILES_NHWC = np.zeros((2, 500, 500, 3), np.uint8)  # half a megapixel


class Counted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, images_NCHW):
        self.calls += 1
        return images_NCHW[:, :1]


@pytest.fixture
def joint():
    spec = Preprocessing(normalise="none")
    nets = [Counted(), Counted(), Counted()]
    ensemble = Ensemble(nets, [1.0] * 3, spec, VIEWS, torch.device("cpu"), torch.float32)
    return JointEnsemble((JointPart(ensemble, Manifest(competition="folder", preprocessing=spec, views=VIEWS)),))


def pacer_of(joint, budget, own=10.0, later=0.0):
    told = []
    pacer = ImagePacer(budget, joint.stages(), [own], WorkAhead((later,), 0), told.append)
    return pacer, told


def calls(joint):
    return [net.calls for net in joint.parts[0].ensemble.models]


def test_without_a_limit_everything_works(joint):
    pacer, told = pacer_of(joint, Budget(None))
    assert pacer.begin(3, 4) == (3, 4)
    (stage,) = pacer.paced(joint.stages())
    stage.forward(TILES_NHWC)
    assert calls(joint) == [4, 4, 4]
    assert told == []
    assert pacer.seen == 0.5


def test_the_level_falls_in_the_middle_of_an_image_and_is_told(joint):
    budget = Budget(1000.0, started=time.monotonic(), batches=5, forward_s=10.0, forward_work=10.0)
    pacer, told = pacer_of(joint, budget, own=10.0, later=40.0)
    assert pacer.begin(3, 4) == (3, 4)
    (stage,) = pacer.paced(joint.stages())
    stage.forward(TILES_NHWC)
    budget.forward_s *= 5  # everything takes five times as long from here on
    stage.forward(TILES_NHWC)
    assert pacer.level == (3, 1) or pacer.level[1] < 4
    assert calls(joint)[0] == 4 + pacer.level[1]
    assert len(told) == 1
    assert "of 4 views" in told[0]
    budget.forward_s /= 100
    stage.forward(TILES_NHWC)
    assert pacer.level[1] < 4, "within an image nothing comes back"


def test_when_the_time_is_over_a_batch_is_refused(joint):
    pacer, _ = pacer_of(joint, Budget(10.0, started=time.monotonic()))
    pacer.begin(3, 4)
    (stage,) = pacer.paced(joint.stages())
    pacer._budget.started -= 6
    with pytest.raises(OutOfTimeError):
        stage.forward(TILES_NHWC)
    assert calls(joint) == [0, 0, 0]


def test_copies_on_two_devices_share_the_clock(joint):
    (part,) = joint.parts
    twice = dataclasses.replace(part.ensemble, replicas=(part.ensemble, part.ensemble))
    both = JointEnsemble((dataclasses.replace(part, ensemble=twice),))
    budget = Budget(None)
    pacer, _ = pacer_of(both, budget)
    pacer.begin(3, 4)
    (stage,) = pacer.paced(both.stages())
    assert len(stage.forward.replicas) == 2
    for replica in stage.forward.replicas:
        replica(TILES_NHWC)
    assert pacer.seen == 1.0
    assert budget.batches == 1, "the first one warms up"
    assert budget.forward_work == 0.5 * 12


def test_blank_tiles_are_no_work_that_is_left(joint):
    pacer, _ = pacer_of(joint, Budget(None), own=10.0)
    pacer.begin(3, 4)
    (stage,) = pacer.paced(joint.stages())
    before = pacer._work(3, 4)
    stage.forward.note_blank(8, 500)
    assert pacer._work(3, 4) == pytest.approx(before - 8 * 0.25 * 12)
    assert pacer.seen == 0.0


def test_stages_that_were_not_begun_are_no_work_of_this_image():
    spec = Preprocessing(normalise="none")
    manifest = Manifest(competition="folder", preprocessing=spec)
    parts = tuple(
        JointPart(Ensemble([Counted()], [1.0], spec, ("identity",), torch.device("cpu"), torch.float32), manifest)
        for _ in range(4)
    )
    joint = JointEnsemble(parts)
    # 1 s a megapixel and pass, four passes of 10 megapixels, and time for 35 of the 40 seconds.
    budget = Budget(70.0, started=time.monotonic(), batches=5, forward_s=10.0, forward_work=10.0)
    pacer = ImagePacer(budget, joint.stages(), [10.0] * 4, WorkAhead((0.0,) * 4, 0), lambda words: None)
    assert pacer.begin(4, 1) == (3, 1)
    pacer.paced(joint.at_level(3, 1).stages())
    assert pacer.begun == 30.0
