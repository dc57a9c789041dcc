import pytest

from histofold.predict.tuner import propose_batch, smallest_of_the_fastest, usable_batches
from histofold.schema.manifest import load_manifest


def test_the_smallest_batch_that_is_about_as_fast_is_proposed():
    assert smallest_of_the_fastest({1: 1.0, 2: 0.6, 4: 0.51, 8: 0.5, 16: 0.5}) == 4
    assert smallest_of_the_fastest({1: 0.5, 2: 0.6}) == 1
    assert smallest_of_the_fastest({1: 1.0}) == 1


def test_memory_ends_the_search_one_step_early():
    tried = []

    def forward(batch):
        tried.append(batch)
        if batch > 4:
            raise MemoryError("no")

    assert usable_batches(forward) == ([1, 2], "8 did not fit into memory")
    assert tried == [1, 2, 4, 8]
    assert usable_batches(lambda batch: None)[0] == [1, 2, 4, 8, 16, 32]


def test_other_errors_and_a_tile_that_never_fits_are_told():
    def broken(batch):
        raise ValueError("shapes")

    def never(batch):
        raise MemoryError("no")

    with pytest.raises(ValueError, match="shapes"):
        usable_batches(broken)
    with pytest.raises(MemoryError, match=r"lower predict\.tile"):
        usable_batches(never)


def test_a_package_gets_a_proposal(small_package, monkeypatch):
    monkeypatch.setattr("histofold.predict.tuner.LARGEST_BATCH", 4)
    proposal = propose_batch(small_package, load_manifest(small_package))
    assert set(proposal.seconds_a_tile) == {1, 2, 4}
    assert proposal.batch in proposal.seconds_a_tile
    assert any(f"batch {proposal.batch} goes into the manifest" in line for line in proposal.lines())
