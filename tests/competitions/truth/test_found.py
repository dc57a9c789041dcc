"""What was found of a folder's truth is read once for all that is asked of it."""

from pathlib import Path

import numpy as np

from histofold.competitions.truth.found import FoundTruth
from histofold.core.rle.runs import runs_from_mask
from histofold.schema.sample import Sample


def test_ignored_pixels_are_known_once_a_mask_was_read():
    truth, reads = FoundTruth(), []
    mask, void = (runs_from_mask(np.eye(3, 4, k) > 0) for k in (0, 1))

    def read(sample):
        reads.append(sample.id)
        if sample.id == "a":
            truth.ignored["a"] = void
        return mask

    truth.readers = {"a": read, "b": read}
    a, b = (Sample(id=key, image_path=Path(f"{key}.png")) for key in "ab")
    assert truth.ignored_pixels(a) == void, "asked before the mask"
    assert truth.ignored_pixels(a) == void
    assert truth.target(b) == mask
    assert truth.ignored_pixels(b) is None
    assert reads == ["a", "b"]
