"""A fold whose network knows organs: each is taught by its own tiles, and slides are validated as what they show."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from histofold.core.faults import InputError
from histofold.models.film import SEEN
from histofold.train.loop import train_fold
from small_datasets import SMALL_UNET
from small_runs import small_dataset, small_setup

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small_dataset(tmp_path_factory.mktemp("organs"))


def test_tiles_of_one_organ_leave_the_table_of_another_as_it_was(dataset, tmp_path):
    setup = small_setup(dataset, tmp_path, model=SMALL_UNET, train={"steps": 2, "validate_every": 9})
    organs = ("kidney", "lung")
    model = replace(setup.experiment.model, organs=organs)
    setup = replace(
        setup,
        index=setup.index.assign(organ="kidney"),
        organs=organs,
        validation=[replace(sample, organ="lung") for sample in setup.validation],
        experiment=replace(setup.experiment, model=model),
    )
    train_fold(setup, False)
    state = load_file(setup.folder / "model.safetensors")
    tables = [tensor for name, tensor in state.items() if name.startswith("film.")]
    assert tables
    assert all(table[0].any() and not table[1].any() for table in tables)
    assert not (setup.folder / "config.json").exists(), "smp alone could not build it"
    assert SEEN.get() == ()


def test_an_organ_that_no_tile_shows_is_refused(dataset, tmp_path):
    with pytest.raises(InputError, match=r"model.organs.kidney.*no tile to train on is of this organ"):
        small_setup(dataset, tmp_path, model={**SMALL_UNET, "organs": ("kidney",)})


def test_places_become_names(dataset, tmp_path):
    setup = replace(small_setup(dataset, tmp_path, model=SMALL_UNET), organs=("kidney", "lung"))
    assert setup.organs_of(torch.tensor([1, -1, 0])) == ["lung", "", "kidney"]
