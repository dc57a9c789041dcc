"""A client that does not answer."""

import pytest

from histofold.kaggle.submit import client
from histofold.kaggle.submit.client import QUESTION_LIMIT_S, ClientError, KaggleClient, run_process

SILENT = ("-c", "import time; print('connecting', flush=True); time.sleep(600)")


def test_a_process_that_hangs_is_killed_and_what_it_said_is_kept():
    code, text = run_process(SILENT, None, 3.0)
    assert code != 0
    assert text == "connecting\n\nconnection error: no answer within 3 s"


def test_a_question_without_an_answer_may_be_asked_again(monkeypatch):
    monkeypatch.setattr(client, "run_process", lambda command, lock, limit_s: run_process(SILENT, lock, 2.0))
    with pytest.raises(ClientError, match="network was away") as raised:
        KaggleClient().kernel_status("me/kernel")
    assert raised.value.transient


def test_questions_have_a_limit_and_changes_have_none(monkeypatch, tmp_path):
    limits = {}

    def note(command, lock, limit_s=None):
        limits[command[2:4]] = limit_s
        return 1, "404 Not Found"

    monkeypatch.setattr(client, "run_process", note)
    kaggle = KaggleClient()
    for call in (
        kaggle.owner,
        lambda: kaggle.dataset("me/weights"),
        lambda: kaggle.kernel_version("me/kernel"),
        lambda: kaggle.kernel_status("me/kernel"),
        lambda: kaggle.submission("hubmap", "tag"),
        lambda: kaggle.upload(tmp_path, ""),
        lambda: kaggle.upload(tmp_path, "notes"),
        lambda: kaggle.push(tmp_path, 60, "cpu"),
        lambda: kaggle.fetch_output("me/kernel", tmp_path),
        lambda: kaggle.submit("hubmap", "me/kernel", 1, "message"),
    ):
        try:
            call()
        except ClientError:
            continue
    changes = [("datasets", "create"), ("datasets", "version"), ("kernels", "push"), ("kernels", "output")]
    changes.append(("competitions", "submit"))
    questions = [("config", "view"), ("datasets", "status"), ("kernel", "me/kernel"), ("kernels", "status")]
    questions.append(("submissions", "hubmap"))
    assert limits == dict.fromkeys(changes) | dict.fromkeys(questions, QUESTION_LIMIT_S)
