"""A client that does not answer."""

import pytest

from histofold.kaggle.submit import client
from histofold.kaggle.submit.client import QUESTION_LIMIT_S, ClientError, KaggleClient, run_process

pytestmark = pytest.mark.slow

VALUES = {
    "slug": "hubmap",
    "dataset": "me/weights",
    "kernel": "me/kernel",
    "timeout_s": 60,
    "accelerator": "cpu",
    "tag": "[tag]",
    "message": "first [tag]",
}
SILENT = ("-c", "import time; print('connecting', flush=True); time.sleep(600)")


def test_a_process_that_hangs_is_killed_and_what_it_said_is_kept():
    code, text = run_process(SILENT, None, 3.0)
    assert code != 0
    assert text == "connecting\n\nconnection error: no answer within 3 s"


def test_a_question_without_an_answer_may_be_asked_again(monkeypatch):
    monkeypatch.setattr(client, "run_process", lambda arguments, lock, limit_s: run_process(SILENT, lock, 2.0))
    with pytest.raises(ClientError, match="network was away") as raised:
        KaggleClient(VALUES).kernel_status()
    assert raised.value.transient


def test_questions_have_a_limit_and_changes_have_none(monkeypatch, tmp_path):
    limits = {}

    def note(arguments, lock, limit_s=None):
        limits[arguments[2:4]] = limit_s
        return 1, "404 Not Found"

    monkeypatch.setattr(client, "run_process", note)
    kaggle = KaggleClient({**VALUES, "folder": tmp_path})
    for call in (
        kaggle.owner,
        kaggle.dataset,
        kaggle.kernel_version,
        kaggle.kernel_status,
        kaggle.submission,
        lambda: kaggle.upload("create"),
        lambda: kaggle.upload("version"),
        kaggle.push,
        lambda: kaggle.fetch_output(tmp_path),
        lambda: kaggle.submit(1),
    ):
        try:
            call()
        except ClientError:
            continue
    changes = [("datasets", "create"), ("datasets", "version"), ("kernels", "push"), ("kernels", "output")]
    changes.append(("competitions", "submit"))
    questions = [("config", "view"), ("datasets", "status"), ("GetKernel", "me/kernel"), ("kernels", "status")]
    questions.append(("ListSubmissions", "hubmap"))
    assert limits == dict.fromkeys(changes) | dict.fromkeys(questions, QUESTION_LIMIT_S)
