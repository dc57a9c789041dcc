"""Random fake hidden sets with random faults: every id has a legal row, and nothing crashes."""

import dataclasses
import shutil

import pytest

from fake_sets import draw_options, kernel_in_process, run_fake_set
from histofold.competitions.registry import get_competition
from histofold.kaggle.simulate.plan import HiddenOptions
from histofold.schema.manifest import load_manifest, manifest_json
from histofold.synth.competitions import hidden_looks
from object_weights import object_package


@pytest.fixture(scope="module")
def weights(small_package, tmp_path_factory):
    """One small network, as weights of each competition."""
    folders = {}
    for name in ("hubmap_2022", "kidney_2020"):
        folder = tmp_path_factory.mktemp(name) / "weights"
        shutil.copytree(small_package, folder)
        manifest = load_manifest(small_package)
        classes = get_competition(name).classes
        one = dataclasses.replace(
            manifest, competition=name, classes=classes, members=manifest.members[:1], tile=64, halo=8
        )
        (folder / "manifest.json").write_text(manifest_json(one))
        folders[name] = folder
    vessels = tmp_path_factory.mktemp("vasculature_2023") / "weights"
    return {**folders, "vasculature_2023": object_package(vessels, "vasculature_2023")}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("hubmap_2022", HiddenOptions(images=16, smallest=16, largest=150, faults=1.0, seed=11)),
        ("kidney_2020", HiddenOptions(images=16, smallest=16, largest=150, faults=1.0, seed=12)),
        ("vasculature_2023", HiddenOptions(images=12, smallest=16, largest=150, faults=1.0, seed=13)),
        ("hubmap_2022", HiddenOptions(images=0, faults=0.0, seed=1)),
        *((name, draw_options(seed, largest=120)) for seed in (21, 22) for name in ("hubmap_2022", "kidney_2020")),
    ],
)
def test_no_id_is_missing_no_row_illegal_and_nothing_crashes(tmp_path, weights, name, options):
    competition = get_competition(name)
    run = kernel_in_process(competition)
    outcome = run_fake_set(tmp_path / "kaggle", competition, weights[name], options, hidden_looks(name), run)
    assert len(outcome.hidden.images) == options.images
    assert outcome.crash == ""
    assert (outcome.missing_ids, outcome.faults) == ((), ())
    assert (outcome.lost, outcome.guessed) == ({}, ())
    assert outcome.good


def test_what_is_wrong_is_seen(tmp_path, weights):
    competition = get_competition("hubmap_2022")
    options = HiddenOptions(images=3, smallest=16, largest=40, faults=0.0)

    def outcome_of(run):
        return run_fake_set(
            tmp_path / "kaggle",
            competition,
            weights["hubmap_2022"],
            options,
            hidden_looks("hubmap_2022"),
            run,
        )

    def crash(tree):
        (tree.working / "submission.csv").write_text("id,rle\n")
        raise RuntimeError("it broke")

    def lose(tree):
        ids = ("10000", "10007", "10014")
        (tree.working / "submission.csv").write_text("id,rle\n" + "".join(f"{key},0 9\n" for key in ids))
        return {"10007": "no reason"}

    crashed, lost = outcome_of(crash), outcome_of(lose)
    assert "it broke" in crashed.crash
    assert sorted(crashed.missing_ids) == ["10000", "10007", "10014"]
    assert crashed.faults
    assert not crashed.good
    assert lost.lost == {"10007": "no reason"}
    assert any("malformed rle" in fault.rule for fault in lost.faults)
    assert not lost.good
