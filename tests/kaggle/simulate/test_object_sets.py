"""Kernels of objects on fake hidden sets in which much is planted, run as Kaggle would."""

import pytest

from fake_sets import draw_cheaply
from histofold.kaggle.simulate.plan import HiddenOptions, SimulateRequest
from histofold.kaggle.simulate.simulate import simulate
from object_weights import DETECTOR, object_package

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("competition", ["vasculature_2023", "vrdl_nuclei"])
def test_every_row_is_legal_whatever_is_planted(competition, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    weights = object_package(tmp_path / "weights", competition, DETECTOR, views=("identity",))
    hidden = HiddenOptions(images=14, smallest=20, largest=70, faults=0.7, seed=8)
    request = SimulateRequest(weights=weights, limit_s=600, out=tmp_path / "out", hidden=hidden)
    verdict = simulate(request, lambda *_: [("kidney", "dataset_1", "pas", 0.5)], lambda *_: draw_cheaply)
    assert verdict.bad == (), str(verdict)
    assert verdict.fallbacks, "something unreadable was planted"
