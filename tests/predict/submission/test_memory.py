import dataclasses

from histofold.predict.submission.predictor import memory_rungs
from histofold.schema.manifest import Manifest
from histofold.schema.preprocessing import Preprocessing

MANIFEST = Manifest(competition="hubmap_2022", preprocessing=Preprocessing(), tile=1024, halo=32, batch=4)


def applied(manifests, members, on_gpu):
    rungs = memory_rungs(manifests, members, on_gpu)
    return [(*[(m.batch, m.tile) for m in map(rung.apply, manifests)], rung.in_turn, rung.on_cpu) for rung in rungs]


def test_the_batch_is_halved_then_members_come_in_turn_then_tiles_are_halved_then_the_cpu_works():
    assert applied([MANIFEST], 3, True) == [
        ((4, 1024), False, False),
        ((2, 1024), False, False),
        ((1, 1024), False, False),
        ((1, 1024), True, False),
        ((1, 512), True, False),
        ((1, 256), True, False),
        ((1, 256), True, True),
    ]


def test_whole_images_keep_their_tile_and_a_single_member_stays():
    whole = dataclasses.replace(MANIFEST, preprocessing=Preprocessing(scale_mode="whole", whole_size=768))
    assert applied([whole], 1, False) == [((batch, 1024), False, False) for batch in (4, 2, 1)]


def test_parts_go_down_together():
    small = dataclasses.replace(MANIFEST, batch=1, tile=256)
    steps = applied([MANIFEST, small], 2, False)
    assert all(step[1] == (1, 256) for step in steps)
    assert [step[0] for step in steps] == [(4, 1024), (2, 1024), (1, 1024), (1, 1024), (1, 512), (1, 256)]
    assert len({str(rung) for rung in memory_rungs([MANIFEST, small], 2, True)}) == 7
