"""The report of an out-of-fold evaluation, of masks or of objects."""

from __future__ import annotations

from histofold.report.masks import write_mask_report
from histofold.report.objects import write_object_report
from histofold.trust.evaluation import Evaluation
from histofold.trust.masks import MaskEvaluation
from histofold.trust.objects.evaluate import ObjectEvaluation


def write_evaluation_report(evaluation: Evaluation) -> None:
    """Write overlays.png and report.html of an evaluated run."""
    if isinstance(evaluation, ObjectEvaluation):
        write_object_report(evaluation)
    else:
        assert isinstance(evaluation, MaskEvaluation)
        write_mask_report(evaluation)
