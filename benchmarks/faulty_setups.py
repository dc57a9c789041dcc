"""What common faults of a set-up make of the Dice of a network that is good.

    python benchmarks/faulty_setups.py --run bench_models/runs/deeplabv3 --fold 0

The finished fold's network predicts its held-out slides once as it was trained, and once with each fault alone: at the
fixed threshold 0.5, so that no choice of a threshold hides it.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from histofold.core.rle.runs import decode_rle, runs_from_mask, runs_to_text
from histofold.data.tiles.masks import masked_fraction
from histofold.schema.preprocessing import Preprocessing
from histofold.train.fold import FoldSetup, prepare_fold
from histofold.train.loop import validate_slides
from histofold.trust.oof import finished_folds, run_experiment

FAULTS = {
    "none": "as it was trained",
    "swapped": "channels blue, green, red",
    "raw": "grey levels 0 to 255, neither divided nor normalised",
    "undivided": "normalised by moments of 0 to 1, but not divided by 255",
    "bare": "divided by 255, not normalised",
    "squashed": "a sigmoid in the network and another after it",
    "rows": "truth read row by row, though its runs go down the columns",
}


class FaultyNetwork(torch.nn.Module):
    """A network whose images or logits are changed on the way, by the name of a fault."""

    def __init__(self, net: torch.nn.Module, preprocessing: Preprocessing, fault: str) -> None:
        super().__init__()
        self.net, self.fault = net, fault
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(preprocessing, name))[:, None, None])

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        unit_NCHW = images_NCHW * self.std + self.mean
        given = {
            "swapped": (unit_NCHW.flip(1) - self.mean) / self.std,
            "raw": 255 * unit_NCHW,
            "undivided": (255 * unit_NCHW - self.mean) / self.std,
            "bare": unit_NCHW,
        }
        logits = self.net(given.get(self.fault, images_NCHW))
        return logits.sigmoid() if self.fault == "squashed" else logits


class RowsForColumns:
    """A competition whose truth is decoded in the wrong order."""

    def __init__(self, competition: Any) -> None:
        self.never_empty, self._true = competition.never_empty, competition

    def target(self, sample: Any) -> Any:
        runs = self._true.target(sample)
        return runs_from_mask(decode_rle(runs_to_text(runs), runs.shape_hw, order="C"))


def score(network: torch.nn.Module, setup: FoldSetup, fault: str) -> float:
    """Mean Dice of the held-out slides with a fault."""
    faulty = FaultyNetwork(network, setup.manifest.preprocessing, fault).to(next(network.parameters()).device)
    competition = RowsForColumns(setup.competition) if fault == "rows" else setup.competition
    view: Any = SimpleNamespace(manifest=setup.manifest, competition=competition)
    return float(np.mean(list(validate_slides(faulty, view, setup.validation).values())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--fold", type=int, default=0)
    options = parser.parse_args()
    experiment = run_experiment(options.run)
    experiment = replace(experiment, predict=replace(experiment.predict, views=("identity",)))
    setup = prepare_fold(experiment, options.run.name, options.run.parent, options.fold, None)
    (network,) = (
        next(run for run in finished_folds(options.run) if run.fold == options.fold).ensemble()[0].networks[0].models
    )
    share = np.mean([masked_fraction(setup.competition.target(sample)) for sample in setup.validation])
    print(f"{len(setup.validation)} slides, {share:.3f} of their pixels masked")
    for fault, words in FAULTS.items():
        print(f"{score(network, setup, fault):.3f}  {words}", flush=True)


if __name__ == "__main__":
    main()
