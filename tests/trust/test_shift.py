"""The shift score of a small run: what it adds, what it leaves alone, and what thresholds are chosen on."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest

from histofold.commands.main import main
from histofold.core.faults import InputError
from histofold.core.stain import image_of_densities
from histofold.imaging.shift import HAEMATOXYLIN, SECOND_STAINS
from histofold.schema.parse import to_toml
from histofold.trust import evaluate, oof
from histofold.trust.oof import FoldScores
from histofold.trust.shift import mean_scores, shift_lines, shift_summary
from small_datasets import make_folder
from small_runs import TinyNet, small_experiment

pytestmark = pytest.mark.slow


def stained(seed, shape_hw=(52, 64)):
    """Blobs of haematoxylin, which are the mask, and eosin."""
    noise_HW2 = cv2.GaussianBlur(np.random.default_rng(seed).standard_normal((*shape_hw, 2)), (0, 0), 3)
    amounts_HW2 = np.clip(noise_HW2 / noise_HW2.std(), 0, 2)
    eosin_3 = SECOND_STAINS[1] / np.linalg.norm(SECOND_STAINS[1])
    image_HWC = image_of_densities((amounts_HW2 @ np.stack([HAEMATOXYLIN, eosin_3])).astype(np.float32))
    return image_HWC[..., ::-1], amounts_HW2[..., 0] > 0.3


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained run of two folds over slides of two organs, evaluated as it is."""
    root = tmp_path_factory.mktemp("shifts")
    make_folder(root / "raw", {f"p{n}": stained(n) for n in range(6)})
    table = pd.read_csv(root / "raw" / "images.csv").assign(organ=["lung", "spleen"] * 3)
    table.to_csv(root / "raw" / "images.csv", index=False)
    (root / "small.toml").write_text(to_toml(small_experiment(root / "dataset")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("histofold.train.run.build_network", lambda *_: TinyNet())
        patch.setattr("histofold.trust.oof.build_network", lambda *_: TinyNet())
        for line in (
            "build --data {0}/raw --out {0}/dataset --experiment {0}/small.toml --workers 1",
            "train {0}/small.toml --runs {0}/runs",
            "evaluate {0}/runs/small",
        ):
            assert main(line.format(root).split()) == 0
        yield root / "runs" / "small"


def summary_of(run):
    return json.loads((run / "summary.json").read_text())


def test_the_shift_score_stands_beside_the_plain_one_and_goes_on_where_it_ended(run, capsys, monkeypatch):
    kept = {name: (run / name).read_bytes() for name in ("oof.csv", "thresholds.json")}
    plain = summary_of(run)
    predicted = []

    def counted(*arguments):
        predicted.append(arguments[3])
        if len(predicted) == 9:
            raise KeyboardInterrupt
        return score_slide(*arguments)

    score_slide = oof.score_slide
    monkeypatch.setattr(oof, "score_slide", counted)
    assert main(["evaluate", str(run), "--shift"]) != 0
    assert main(["evaluate", str(run), "--shift"]) == 0
    assert len(predicted) == 2 * 6 + 1, "each slide once a stain, and none as it is again"
    words = capsys.readouterr().out
    assert {name: (run / name).read_bytes() for name in kept} == kept, "the plain score is what it was"
    now = summary_of(run)
    shift = now.pop("shift")
    assert now == plain
    assert shift["thresholds"] == "plain"
    by_stain = [values["dice"] for values in shift["stains"].values()]
    assert list(shift["stains"]) == ["H&E", "PAS"]
    assert shift["dice"] == pytest.approx(np.mean(by_stain))
    lines = [json.loads(line) for line in (run / "oof_scores.jsonl").read_text().splitlines()]
    as_it_is, in_own, in_other = lines[:6], lines[6:12], lines[12:]
    assert ["PAS" in line["key"] for line in lines] == [False] * 12 + [True] * 6
    for before, own, other in zip(as_it_is, in_own, in_other, strict=True):
        assert own["scores"] == before["scores"], "these slides are in H&E already"
        assert other["scores"] != before["scores"]
    assert set(shift["stains"]["PAS"]["organs"]) == {"lung", "spleen"}
    assert f"shift score {shift['dice']:.4f} (95% " in words
    assert words.index("shift score") < words.index("out-of-fold Dice")
    page = (run / "report.html").read_text()
    assert "Shifted slides" in page
    assert f"{shift['dice']:.4f}" in page
    ledger = pd.read_csv(run.parent / "ledger.csv")
    assert ledger["shift"].tolist() == pytest.approx([shift["dice"]], abs=1e-6)


def test_thresholds_are_chosen_on_shifted_slides_where_that_is_asked_for(run, capsys):
    assert main(["evaluate", str(run), "--shift-thresholds"]) == 0
    assert summary_of(run)["shift"]["thresholds"] == "shifted"
    words = capsys.readouterr().out
    assert "the others chose on their shifted slides" in words
    assert "at thresholds chosen on shifted slides" in words


def test_a_run_of_objects_has_no_shift_score(run, monkeypatch):
    objects = SimpleNamespace(competition=SimpleNamespace(task="instances"))
    monkeypatch.setattr(evaluate, "load_sources", lambda experiment: [objects])
    with pytest.raises(InputError, match="leave --shift out"):
        evaluate.evaluate_run(run, shift="score")


FACTS = ["id", "fold", "organ", "source", "group", "everything"]


def scores_of(*dice):
    """The same four slides, each with these Dice at the thresholds of the grid."""
    facts = pd.DataFrame([(f"s{n}", n % 2, "lung", "", "g", 0.1) for n in range(4)], columns=FACTS)
    return FoldScores(facts, ["own"], (), np.array(dice)[None, None, None].repeat(4, axis=0))


def test_scores_are_taken_at_thresholds_of_other_folds_of_another_table():
    steps = np.linspace(0, 0.3, len(oof.THRESHOLD_GRID))
    plain, stains = scores_of(*(0.9 - steps)), [scores_of(*(0.1 + steps)), scores_of(*(0.3 + 2 * steps))]
    mean = mean_scores(stains)
    assert mean.table("own")[0.8].tolist() == pytest.approx([0.65] * 4)
    assert stains[0].table("own")[0.8].tolist() == pytest.approx([0.4] * 4)
    scored = mean.scored()
    assert scored.thresholds("own", scored.folds)["default"] == 0.8
    nested = scored.nested_scores(lambda folds: "own", plain.tables())
    assert nested.tolist() == pytest.approx([0.6] * 4)
    assert plain.scored().nested_scores(lambda folds: "own").tolist() == pytest.approx([0.9] * 4)


def test_the_interval_is_of_slides_over_their_stains():
    by_stain = {
        name: pd.DataFrame({"organ": "", "dice": dice}) for name, dice in (("H&E", [0.2, 0.6]), ("PAS", [0.6, 0.2]))
    }
    summary = shift_summary(by_stain, ["a", "b"], "score")
    assert summary["dice"] == pytest.approx(0.4)
    assert summary["interval"] == pytest.approx([0.4, 0.4]), "both slides have the same mean"
    assert shift_summary(by_stain, ["a", "a"], "score")["interval"] is None
    assert shift_lines(summary)[0] == "shifted to H&E: Dice 0.4000"
