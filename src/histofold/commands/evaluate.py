"""`histofold evaluate runs/E`: out-of-fold score, thresholds and report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from histofold.commands import parse_options
from histofold.core.faults import Fault, InputError
from histofold.schema.kinds import require_kind


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Score every held-out slide through the kernel's predict code; choose thresholds nested over folds."""

    run: tyro.conf.Positional[Path]
    """The run, runs/E; or a file that names several, as experiments/group_ensemble.toml: they are scored as one
    ensemble, and their shares are chosen."""
    data_root: Annotated[Path | None, tyro.conf.arg(name="data.root")] = None
    """The competition folder, where it is no longer where the dataset was built from."""
    shift: bool = False
    """Score every held-out slide once more as the hidden set would show it: in H&E and in PAS, with its organ's detail
    and thickness there. It takes three times as long."""
    shift_thresholds: bool = False
    """The same, and choose the thresholds, which `package` takes, on the shifted slides."""
    cleaning_gain_over: Path | None = None
    """An evaluated run that differs in data.clean_blank alone: say whether cleaning the labels gained."""
    beside: tuple[Path, ...] = ()
    """Other evaluated runs of the same folds: print the paired differences and which settings changed, and draw
    runs/E/beside.png."""


def run(arguments: list[str]) -> int:
    """The verb."""
    options = parse_options(EvaluateOptions, "evaluate", arguments)
    require_kind(options.run, "run", "joint runs")
    others = [*filter(None, [options.cleaning_gain_over]), *options.beside]
    for run_folder in others:
        require_kind(run_folder, "run")
    if options.run.suffix == ".toml":
        return _score_together(options, others)
    from histofold.report.comparison import compare_runs, refuse_unevaluated
    from histofold.report.evaluation import write_evaluation_report
    from histofold.train.checkpoint import changed_settings
    from histofold.trust.evaluate import evaluate_run
    from histofold.trust.ledger import write_ledger
    from histofold.trust.oof import run_experiment
    from histofold.trust.shift import ShiftUse

    uncleaned = options.cleaning_gain_over
    refuse_unevaluated([*filter(None, [uncleaned]), *options.beside])
    shift: ShiftUse = "thresholds" if options.shift_thresholds else "score" if options.shift else "none"
    evaluation = evaluate_run(options.run, options.data_root, shift)
    write_evaluation_report(evaluation)
    runs = options.run.resolve().parent
    write_ledger(runs)
    print(f"all runs: {runs / 'ledger.csv'}")
    print(*evaluation.lines(), sep="\n")
    if uncleaned is not None or options.beside:
        print(*compare_runs(evaluation, options.beside, uncleaned), sep="\n")
    for other in options.beside:
        first = next(iter(sorted(other.glob("fold*/experiment.toml"))))
        changed = changed_settings(first, run_experiment(options.run)) or ["no setting: data, weights or code differ"]
        print(f"{other.name} to {options.run.name}, what changed: {'; '.join(changed)}")
    print(f"report: {options.run / 'report.html'}")
    return 0


def _score_together(options: EvaluateOptions, others: list[Path]) -> int:
    """The verb for a file that names runs."""
    if others or options.shift or options.shift_thresholds:
        rule = "--beside, --cleaning-gain-over and --shift are of one run, and this is a list of runs"
        raise InputError([Fault(options.run.name, str(options.run), rule, "name one run, or leave these options out")])
    from histofold.trust.joint import evaluate_joint

    evaluation = evaluate_joint(options.run, options.data_root)
    print(*evaluation.lines(), sep="\n")
    print(f"summary: {evaluation.folder / 'summary.json'}")
    return 0
