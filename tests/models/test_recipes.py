"""Every committed recipe names a network that can be built."""

import json
from functools import partial
from importlib.util import find_spec

import pytest
import torch

from histofold.core.faults import InputError
from histofold.models.instances.build import build_network
from histofold.schema.experiment import Experiment
from histofold.schema.parse import load_toml, read_toml
from histofold.schema.sweep import load_sweep, with_settings

pytestmark = pytest.mark.slow


def test_the_network_of_every_recipe_is_built(project_root):
    networks = {}
    for path in sorted((project_root / "experiments").glob("*.toml")):
        data = read_toml(path)
        if "runs" in data:
            continue  # an ensemble of the others
        sweep = load_sweep(path) if "space" in data else None
        experiment = sweep.experiment if sweep else load_toml(Experiment, path)
        if experiment.train.steps == 0:
            continue  # its file of weights says what network it is
        for point in (sweep.grid() or [sweep.first_point()]) if sweep else [{}]:
            config = with_settings(experiment, point, path.name).model
            if config.architecture == "yolo" and not find_spec("ultralytics"):
                continue  # the user's to install
            networks.setdefault(
                json.dumps([config.architecture, config.arguments()]),
                partial(build_network, config.architecture, config.arguments()),
            )
    assert len(networks) > 5
    for key, build in networks.items():
        try:
            with torch.device("meta"):  # no weight is drawn
                assert any(True for _ in build().parameters()), key
        except InputError as error:
            pytest.fail(f"{key}: {error}")


def test_the_report_s_grid_is_the_report_s(project_root):
    sweep = load_sweep(project_root / "experiments" / "ftu_report_deeplabv3_grid.toml")
    rates = [2e-8, 2e-7, 2e-6, 2e-5, 2e-4, 2e-3, 4e-3, 6e-3, 8e-3, 1e-2, 2e-2, 3e-2, 4e-2, 5e-2]
    assert [(p["optim.lr"], p["optim.weight_decay"]) for p in sweep.grid()] == [
        (rate, decay) for rate in rates for decay in (0.0, 1e-10, 1e-9)
    ]
    experiment = sweep.experiment
    assert experiment.train.steps == 50 * (351 - experiment.tiles.holdout) // experiment.train.batch
    assert experiment.loss.weights() == {"dice": 1.0}
