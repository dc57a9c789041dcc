"""Which tiles stand for a data set."""

from types import SimpleNamespace

import numpy as np
import pandas as pd

from histofold.core.rle.runs import Runs
from histofold.report.pictures import slides
from histofold.schema.sample import Sample


def test_tiles_of_a_sample_are_of_as_many_slides_as_there_are(monkeypatch, tmp_path):
    tile = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    monkeypatch.setattr(slides, "read_tile", lambda dataset, name, **_: tile)
    ids = [f"s{n}" for n in range(8) for _ in range(10)]
    index = pd.DataFrame({"tile_id": [f"{key}_{n}" for n, key in enumerate(ids)], "id": ids, "mask_fraction": 0.5})
    index["bin"] = ["small", "large"] * 40
    titles = [title for title, _ in slides.sample_tiles(tmp_path, index)]
    assert {title.split("_")[0] for title in titles} == set(ids)
    assert len(titles) == 2 * slides.TILES_A_BIN == len(set(titles))
    assert titles == [title for title, _ in slides.sample_tiles(tmp_path, index)]
    few = slides.sample_tiles(tmp_path, index[:3])
    assert len(few) == 3


def test_slides_of_few_organs_are_shown_more_of(monkeypatch):
    monkeypatch.setattr(slides, "slide_overlay", lambda sample, *_: sample.image_path)
    competition = SimpleNamespace(target=lambda sample: Runs(np.zeros(0, int), np.zeros(0, int), (4, 5)))

    def shown(organs):
        samples = [Sample(id=f"{organ}{n}", image_path=None, organ=organ) for organ in organs for n in range(20)]
        return [title for title, _ in slides.sample_slides(competition, samples)]

    assert len(shown(["lung"])) == 9 == len(set(shown(["lung"])))
    assert len(shown("abcde")) == 15
    assert shown([]) == []
