"""Inference kernel of VRDL's nuclei (2021): the host takes answer.json, wherever it was made."""

from __future__ import annotations

import time
from pathlib import Path

from histofold.competitions.vrdl_nuclei import VRDL_TEST_IDS, VrdlNuclei
from histofold.core.faults import Fault, InputError
from histofold.kernels.entry import HiddenTest, predict_hidden, show_summary, start_kernel, walk_files
from histofold.predict.objects.rows import ObjectRows
from histofold.predict.submission.runner import RunSummary
from histofold.schema.files import write_atomically

VRDL_ANSWER = "answer.json"


def run_vrdl_nuclei(inputs: Path, working: Path, limit_s: float) -> RunSummary:
    """Write WORKING/answer.json for the test set found below INPUTS.

    Raises:
        InputError: If the test set or weights are not found, or a file of either cannot be used.
    """
    end, competition = time.monotonic() + limit_s, VrdlNuclei()
    path = next(walk_files(inputs, VRDL_TEST_IDS), None)
    if path is None:
        rule = "no such file: it names the images to predict"
        raise InputError([Fault(VRDL_TEST_IDS, str(inputs), rule, "add the test images' dataset to the kernel")])
    write_atomically(working / VRDL_ANSWER, competition.submission_text({}))  # legal, whatever the list holds
    hidden = HiddenTest(path.parent, competition.test_samples(path.parent), working / VRDL_ANSWER)
    return predict_hidden(competition, hidden, inputs, end, ObjectRows)


if __name__ == "__main__":
    kernel_summary = start_kernel(VrdlNuclei(), run_vrdl_nuclei, VRDL_ANSWER)
    show_summary(kernel_summary)
