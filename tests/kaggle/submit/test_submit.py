"""`histofold submit` with Kaggle's own client against a server on this machine."""

import json
import logging
import multiprocessing
import os
import signal
from dataclasses import replace

import pytest

from histofold.commands.main import main
from histofold.kaggle.submit import client
from histofold.kaggle.submit.request import StateFile, Upload
from histofold.schema.files import LineJournal
from loopback import OWNER, TOKEN, client_in_process, loopback, submit_in_child
from small_submission import SLUG, make_kernel, make_weights, tensor_file

pytestmark = pytest.mark.slow

DATASET, KERNEL = f"{OWNER}/histofold-weights", f"{OWNER}/histofold-hubmap-2022"
COMMAND = ["submit", "hubmap_2022", "--message", "first", "--poll-seconds", "0.02"]
UPLOADED = {"a_fold0.safetensors", "manifest.json"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder that everything happens in, with weights and a kernel as the verbs leave them."""
    monkeypatch.chdir(tmp_path)
    make_weights(tmp_path / "weights")
    make_kernel(tmp_path / "kaggle_kernels" / "hubmap_2022")
    return tmp_path


@pytest.fixture
def site(own_process_site, monkeypatch):
    """Kaggle on this machine, and the real client inside of this process, which saves its start."""
    monkeypatch.setattr(client, "run_process", client_in_process)
    return own_process_site


@pytest.fixture
def own_process_site(place, monkeypatch):
    """Kaggle on this machine; the client runs in a process of its own and is sent there by its environment."""
    with loopback(place / "server") as (fake, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_CONFIG_DIR"):
            monkeypatch.delenv(name, raising=False)
        yield fake


def the_state(place):
    return StateFile(place / "runs" / "submissions", "hubmap_2022")


def the_folder(place):
    (progress,) = the_state(place).state.requests.values()
    return place / "runs" / "submissions" / progress.name


def forget(place, **changes):
    """Note of every request that less is done of it, as if it had been killed before."""
    file = the_state(place)
    for key, progress in file.state.requests.items():
        file.note_progress(key, replace(progress, **changes))
    return file


def ledger(place):
    return LineJournal(place / "runs" / "submissions" / "submissions.jsonl").entries


def contents(place):
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_from_weights_to_a_score_without_a_word_of_the_credentials(place, own_process_site, capfd, caplog, monkeypatch):
    """Every request, what is kept of the answers, and no secret in it, although client and kernel print some."""
    site = own_process_site
    old_key = "0123456789abcdef-the-old-kind"
    monkeypatch.setenv("VERBOSE", "true")  # the client would print its requests, headers and all
    monkeypatch.setenv("KAGGLE_KEY", old_key)
    site.log = f"the environment: KAGGLE_API_TOKEN={TOKEN}\n"
    with caplog.at_level(logging.DEBUG, logger="histofold"):
        assert main(COMMAND) == 0
    folder = the_folder(place)
    (version,) = site.datasets[DATASET]["versions"]
    assert set(version) == UPLOADED, "neither the metadata nor the README"
    assert version["a_fold0.safetensors"] == tensor_file(b"weights")
    assert (folder / "output" / "submission.csv").read_bytes() == site.output["submission.csv"]
    assert "the environment: KAGGLE_API_TOKEN=***" in (folder / "output" / "histofold-hubmap-2022.log").read_text()

    (created,) = site.bodies("CreateDataset")
    assert (created["ownerSlug"], created["slug"], created["isPrivate"]) == (OWNER, "histofold-weights", True)
    assert created["licenseName"] == "CC-BY-4.0"
    (pushed,) = site.bodies("SaveKernel")
    assert (pushed["slug"], pushed["enableInternet"], pushed["isPrivate"]) == (KERNEL, False, True)
    assert (pushed["machineShape"], pushed["sessionTimeoutSeconds"]) == ("NvidiaTeslaT4", 9 * 3600)
    assert (pushed["datasetDataSources"], pushed["competitionDataSources"]) == ([DATASET], [SLUG])
    (submitted,) = site.bodies("CreateCodeSubmission")
    asked = (submitted["competitionName"], submitted["kernelVersion"], submitted["fileName"])
    assert asked == (SLUG, 1, "submission.csv")
    assert submitted["submissionDescription"] == f"first [{folder.name}]"

    (line,) = ledger(place)
    assert (line["public_score"], line["private_score"], line["status"]) == ("0.71", "0.69", "COMPLETE")
    assert (line["dataset"], line["kernel"], line["ref"]) == (f"{DATASET}/1", f"{KERNEL}/1", "9001")
    committed = (place / "weights" / "dataset-metadata.json").read_text()
    assert "your-kaggle-name" in committed, "what the user keeps is left as it is"

    printed = capfd.readouterr()
    assert "public 0.71, private 0.69" in printed.out
    written = [text.decode(errors="replace") for text in contents(place / "runs").values()]
    assert any("$ kaggle kernels push" in text for text in written), "the client's log is among them"
    texts = [printed.out, printed.err, caplog.text, *written]
    assert not [text[:200] for text in texts for secret in (TOKEN, old_key) if secret in text]

    asked = len(site.calls)
    monkeypatch.delenv("VERBOSE")  # it would stay with a client inside of this process
    monkeypatch.delenv("KAGGLE_KEY")
    monkeypatch.setattr(client, "run_process", client_in_process)
    assert main(COMMAND) == 0
    assert not {name for name, _ in site.calls[asked:]} - {"IntrospectToken"}, "all is done: nothing more is asked"


def test_other_weights_become_a_version_and_the_same_are_not_sent_again(place, site):
    site.processing = 2
    assert main([*COMMAND, "--no-submit"]) == 0
    assert site.count("CreateCodeSubmission") == 0
    make_kernel(place / "kaggle_kernels" / "hubmap_2022", "print('another')\n")
    assert main([*COMMAND, "--no-submit"]) == 0
    assert (site.count("CreateDataset"), site.count("CreateDatasetVersion")) == (1, 0), "the weights are the same"
    assert len(site.kernels[KERNEL]) == 2
    make_weights(place / "weights", b"others")
    site.refusals["CreateDatasetVersion"] = [403, 403]
    assert main([*COMMAND, "--accelerator", "NvidiaL4", "--timeout-hours", "1.5"]) == 0
    assert site.count("CreateDatasetVersion") == 3, "two were refused while the site was not ready"
    assert site.datasets[DATASET]["versions"][-1]["a_fold0.safetensors"] == tensor_file(b"others")
    pushed = site.bodies("SaveKernel")[-1]
    assert (pushed["machineShape"], pushed["sessionTimeoutSeconds"]) == ("NvidiaL4", 5400)
    (line,) = ledger(place)
    assert (line["dataset"], line["kernel"]) == (f"{DATASET}/2", f"{KERNEL}/3")


def test_the_kernel_waits_for_the_dataset(place, site):
    site.processing = 4
    assert main([*COMMAND, "--no-submit"]) == 0
    names = [name for name, _ in site.calls]
    asked = [at for at, name in enumerate(names) if name == "GetDatasetStatus"]
    created, pushed = names.index("CreateDataset"), names.index("SaveKernel")
    assert sum(created < at < pushed for at in asked) >= 5, "until it is ready"
    assert not [at for at in asked if at > pushed]


def test_a_failed_kernel_is_explained_and_pushed_anew(place, site, capsys, caplog):
    site.runs = [["QUEUED", "ERROR"], ["RUNNING", "COMPLETE"]]
    site.failure = "Notebook Threw Exception"
    trace = "Traceback (most recent call last):\nRuntimeError: CUDA out of memory. Tried to allocate 9.00 GiB\n"
    site.log = json.dumps([{"stream_name": "stderr", "time": 1.5, "data": trace}])
    with caplog.at_level(logging.ERROR, logger="histofold"):
        assert main(COMMAND) == 2
    told = capsys.readouterr().err
    assert "CUDA out of memory: the GPU's memory was used up" in told
    assert any("Tried to allocate" in record.getMessage() for record in caplog.records)
    assert list(the_folder(place).glob("failed_1/*.log"))
    assert main(COMMAND) == 0
    assert (site.count("CreateDataset"), site.count("SaveKernel"), site.count("CreateCodeSubmission")) == (1, 2, 1)
    assert ledger(place)[0]["kernel"] == f"{KERNEL}/2"


def test_a_stopped_kernel_and_one_without_a_submission(place, site, capsys):
    site.runs = [["CANCEL_ACKNOWLEDGED"], ["COMPLETE"]]
    assert main(COMMAND) == 2
    assert "CANCEL_ACKNOWLEDGED" in capsys.readouterr().err
    site.output = {"other.csv": b"id,rle\n"}
    assert main(COMMAND) == 2
    assert "without a submission.csv" in capsys.readouterr().err
    site.output = {"submission.csv": b"id,predicted\n"}
    assert main(COMMAND) == 2
    assert "its columns are id, predicted and not id, rle" in capsys.readouterr().err
    assert site.count("CreateCodeSubmission") == 0


def test_a_failed_submission_is_noted_and_explained(place, site, capsys):
    site.scoring, site.error_description = ["PENDING", "ERROR"], "Submission Scoring Error"
    assert main(COMMAND) == 2
    assert "wrong rows, columns, types" in capsys.readouterr().err
    (line,) = ledger(place)
    assert (line["status"], line["error"], line["public_score"]) == ("ERROR", "Submission Scoring Error", "")
    assert main(COMMAND) == 2, "the same request stays failed"
    assert site.count("CreateCodeSubmission") == 1
    site.scoring = ["COMPLETE"]
    assert main([*COMMAND, "--again"]) == 0
    assert site.count("CreateCodeSubmission") == 2
    assert len(ledger(place)) == 2


def test_a_file_that_was_lost_on_its_way_is_uploaded_again(place, site, capsys):
    site.lost_uploads = 1
    assert main(COMMAND) == 2
    assert "Kaggle would make a dataset without it" in capsys.readouterr().err
    assert main(COMMAND) == 0
    assert [set(version) == UPLOADED for version in site.datasets[DATASET]["versions"]] == [False, True]


def test_a_dataset_that_kaggle_cannot_process_is_told(place, site, capsys):
    site.after["CreateDataset"] = lambda: site.datasets[DATASET].update(status="FAILED")
    assert main(COMMAND) == 2
    assert "Kaggle says 'failed' of the new version" in capsys.readouterr().err
    assert site.count("SaveKernel") == 0
    site.after["CreateDatasetVersion"] = lambda: site.datasets[DATASET].update(status="READY")
    assert main(COMMAND) == 0


def test_questions_may_fail_for_a_while(place, site):
    site.refusals = {"GetKernelSessionStatus": [503, 429], "ListSubmissions": [502], "GetDatasetStatus": [500]}
    assert main(COMMAND) == 0
    assert (site.count("SaveKernel"), site.count("CreateCodeSubmission")) == (1, 1)


REFUSALS = {
    "rules": (
        {"CreateCodeSubmission": (403, "You must accept this competition's rules before you can submit")},
        "joined",
    ),
    "limit": ({"CreateCodeSubmission": (429, "")}, "the day's submissions are used up"),
    "quota": ({"SaveKernel": (400, "Weekly GPU quota exceeded")}, "hours of this accelerator are used up"),
    "phone": ({"SaveKernel": (400, "Please verify your phone number")}, "verified phone number"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_are_told_with_cause_and_cure_and_then_gone_on_with(case, place, site, capsys, monkeypatch):
    answers, words = REFUSALS[case]
    (method, refusal), *_ = answers.items()
    monkeypatch.setattr(site, "messages", {method: [refusal]})
    assert main(COMMAND) == 2
    told = capsys.readouterr().err
    assert words in told
    assert "Traceback" not in told
    assert main(COMMAND) == 0
    assert (site.count("CreateDataset"), len(site.kernels[KERNEL]), len(site.submissions)) == (1, 1, 1)


# --- several submissions to the same dataset and kernel -------------------------------------------------------------


@pytest.mark.slow
def test_what_another_submission_uploaded_since_is_not_taken_for_ours(place, site):
    """A kernel mounts the newest version of its dataset: one that failed must not be pushed anew onto others' files."""
    site.runs = [["ERROR"], ["COMPLETE"]]
    assert main(COMMAND) == 2
    make_weights(place / "weights", b"others")
    assert main(COMMAND) == 0
    make_weights(place / "weights")
    assert main(COMMAND) == 0
    contents = [version["a_fold0.safetensors"] for version in site.datasets[DATASET]["versions"]]
    assert contents == [tensor_file(content) for content in (b"weights", b"others", b"weights")]
    lines = ledger(place)
    assert [(line["dataset"], line["kernel"]) for line in lines] == [
        (f"{DATASET}/2", f"{KERNEL}/2"),
        (f"{DATASET}/3", f"{KERNEL}/3"),
    ]


@pytest.mark.slow
def test_a_step_that_was_only_begun_takes_over_nothing_of_others(place, site):
    assert main([*COMMAND, "--no-submit"]) == 0
    file = forget(place, kernel_version=0, output_fetched=False)
    for name, upload in list(file.state.uploads.items()):
        file.note_upload(name, replace(upload, before=0, version=0))
    site.datasets.clear()
    site.kernels.clear()
    make_weights(place / "weights", b"others")
    assert main([*COMMAND, "--no-submit"]) == 0
    make_weights(place / "weights")
    assert main([*COMMAND, "--no-submit"]) == 0
    contents = [version["a_fold0.safetensors"] for version in site.datasets[DATASET]["versions"]]
    assert contents == [tensor_file(b"others"), tensor_file(b"weights")]
    requests = the_state(place).state.requests.values()
    assert [(progress.dataset_version, progress.kernel_version) for progress in requests] == [(2, 2), (1, 1)]


def test_a_dataset_and_a_kernel_that_were_removed_by_hand_are_made_anew(place, site):
    assert main([*COMMAND, "--no-submit"]) == 0
    site.datasets.clear()
    site.kernels.clear()
    make_kernel(place / "kaggle_kernels" / "hubmap_2022", "print('another')\n")
    assert main(COMMAND) == 0
    assert (site.count("CreateDataset"), ledger(place)[0]["kernel"]) == (2, f"{KERNEL}/1")


@pytest.mark.parametrize(("others", "versions"), [([], 1), ([DATASET], 2)])
def test_a_version_is_taken_over_where_no_other_competition_shares_the_dataset(others, versions, place, site):
    """Killed before the upload could be noted: what is there may be the other's."""
    assert main([*COMMAND, "--no-submit"]) == 0
    file = forget(place, kernel_version=0, output_fetched=False)
    file.note_upload(DATASET, replace(file.state.uploads[DATASET], before=0, version=0))
    file.note_upload(KERNEL, None)
    other = StateFile(place / "runs" / "submissions", "kidney_2020")
    for name in others:
        other.note_upload(name, Upload(content="theirs", before=0, version=1))
    assert main([*COMMAND, "--no-submit"]) == 0
    assert len(site.datasets[DATASET]["versions"]) == versions


def test_a_state_that_was_cut_short_is_named(place, site, capsys):
    path = place / "runs" / "submissions" / "hubmap_2022.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"uploads": {')
    assert main(COMMAND) == 2
    told = capsys.readouterr().err
    assert str(path.relative_to(place)) in told
    assert "move it away" in told
    assert {name for name, _ in site.calls} <= {"IntrospectToken"}


def test_the_output_of_another_version_is_not_taken_for_ours(place, site, capsys):
    assert main([*COMMAND, "--no-submit"]) == 0
    forget(place, output_fetched=False)
    site.kernels[KERNEL].append(["COMPLETE"])  # by hand, or from another machine
    assert main(COMMAND) == 2
    assert "version 2 was pushed since" in capsys.readouterr().err
    assert main(COMMAND) == 0
    (submitted,) = site.bodies("CreateCodeSubmission")
    assert submitted["kernelVersion"] == 3


@pytest.mark.slow
def test_a_dataset_that_the_kernel_finds_broken_is_uploaded_anew(place, site):
    site.runs = [["ERROR"], ["COMPLETE"]]
    site.log = "a_fold0.safetensors: /kaggle/input/x/manifest.json: no such file beside the manifest; package anew\n"
    assert main(COMMAND) == 2
    assert main(COMMAND) == 0
    assert (site.count("CreateDataset"), site.count("CreateDatasetVersion"), site.count("SaveKernel")) == (1, 1, 2)


def test_a_refused_push_takes_over_nothing_that_is_pushed_by_hand(place, site):
    site.messages = {"SaveKernel": [(400, "Weekly GPU quota exceeded")]}
    assert main(COMMAND) == 2
    site.kernels[KERNEL] = [["COMPLETE"]]
    assert main(COMMAND) == 0
    (submitted,) = site.bodies("CreateCodeSubmission")
    assert submitted["kernelVersion"] == 2


# --- nothing is sent that should not be -------------------------------------------------------------------------------


FAULTS = {
    "weights cut short": (lambda place: (place / "weights" / "a_fold0.safetensors").write_bytes(b"x"), "SHA-256"),
    "no weights": (lambda place: (place / "weights" / "manifest.json").unlink(), "manifest.json"),
    "no dataset metadata": (lambda place: (place / "weights" / "dataset-metadata.json").unlink(), "no such file"),
    "a sub-folder": (lambda place: (place / "weights" / "more").mkdir(), "flat"),
    "no code": (lambda place: (place / "kaggle_kernels" / "hubmap_2022" / "kernel.py").unlink(), "no file kernel.py"),
    "internet": (lambda place: change_kernel(place, enable_internet=True), "set it to false"),
    "another competition": (lambda place: change_kernel(place, competition_sources=["titanic"]), "does not name"),
    "other weights": (lambda place: change_kernel(place, dataset_sources=["me/others"]), "the weights become"),
    "unknown key": (lambda place: change_kernel(place, gpu=True), "unknown key"),
}


def change_kernel(place, **values):
    path = place / "kaggle_kernels" / "hubmap_2022" / "kernel-metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("case", FAULTS)
def test_nothing_is_sent_when_a_check_fails(case, place, site, capsys):
    plant, words = FAULTS[case]
    plant(place)
    before = contents(place)
    assert main(COMMAND) == 2
    assert words in capsys.readouterr().err
    assert site.calls == []
    assert contents(place) == before


def test_all_faults_of_both_come_at_once(place, capsys):
    FAULTS["weights cut short"][0](place)
    FAULTS["internet"][0](place)
    assert main(COMMAND) == 2
    told = capsys.readouterr().err
    assert "SHA-256" in told
    assert "enable_internet" in told
    assert "2 faults" in told


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["folder"], "not a competition of Kaggle's"),
        (["hubmap_2022", "--timeout-hours", "13"], "12 hours at most"),
        (["hubmap_2022", "--timeout-hours", "nan"], "12 hours at most"),
        (["hubmap_2022", "--timeout-hours", "inf"], "12 hours at most"),
        (["hubmap_2022", "--accelerator", "abacus"], "not a machine"),
        (["hubmap_2022", "--owner", "your-kaggle-name"], "not an account's name"),
        (["hubmap_2022", "--folds", "folds.csv"], "--training"),
        (["hubmap_2022", "--poll-seconds", "-1"], "--poll-seconds"),
    ],
)
def test_odd_options_are_refused(options, words, place, site, capsys):
    assert main(["submit", *options]) == 2
    assert words in " ".join(capsys.readouterr().err.replace("\u2502", " ").split()), "it may come in a box"
    assert site.calls == []


def test_without_credentials_or_owner_nothing_is_sent(place, site, capsys, monkeypatch):
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_ffffffffffffffffffffffffffffffff")
    assert main(COMMAND) == 2
    assert "Kaggle does not know who you are" in capsys.readouterr().err
    assert {name for name, _ in site.calls} <= {"IntrospectToken"}


def test_a_dry_run_tells_the_commands_and_changes_nothing(place, site, capsys):
    before = contents(place)
    assert main([*COMMAND, "--dry-run", "--owner", OWNER]) == 0
    told = capsys.readouterr().out
    assert (contents(place), site.calls) == (before, [])
    wanted = [
        f"kaggle datasets status {DATASET} --format json",
        "kaggle datasets create -p runs/submissions/TIME/dataset",
        "kaggle datasets version -p runs/submissions/TIME/dataset -m 'first [TIME]'",
        f"GetKernel {KERNEL}",
        "kaggle kernels push -p runs/submissions/TIME/kernel -t 32400 --accelerator NvidiaTeslaT4",
        f"kaggle kernels status {KERNEL}",
        f"kaggle kernels output {KERNEL} -p runs/submissions/TIME/output -o",
        f"kaggle competitions submit {SLUG} -k {KERNEL} -v VERSION -f submission.csv -m 'first [TIME]'",
        f"ListSubmissions {SLUG}",
    ]
    places = [told.index(line) for line in wanted]
    assert places == sorted(places)
    assert main([*COMMAND, "--dry-run"]) == 0
    assert "kaggle config view" in capsys.readouterr().out


# --- killed and started again -----------------------------------------------------------------------------------------

ACTIONS = ("CreateDataset", "SaveKernel", "CreateCodeSubmission")
KILLED_AT = (
    *("IntrospectToken", "GetDatasetStatus", "StartBlobUpload", "CreateDataset", "GetDataset", "GetKernel"),
    *("SaveKernel", "GetKernelSessionStatus", "ListKernelSessionOutput", "CreateCodeSubmission", "ListSubmissions"),
)


def killed(place, site, method, own_process=False):
    """Start the command in a process of its own, and kill it while the site answers a request."""
    context = multiprocessing.get_context("forkserver")
    names = ("LOOPBACK_URL", "KAGGLE_API_TOKEN", "KAGGLE_API_ENVIRONMENT", "PYTHONPATH", "HOME", "TMPDIR", "NO_PROXY")
    environment = {name: os.environ[name] for name in names}
    process = context.Process(target=submit_in_child, args=(environment, place, COMMAND, own_process))
    site.after[method] = lambda: os.kill(process.pid, signal.SIGKILL)
    process.start()
    process.join(120)
    del site.after[method]
    return process.exitcode


@pytest.fixture(scope="module", autouse=True)
def preloaded():
    """Children are forked from a process that has loaded what they need."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(["loopback", "histofold.kaggle.submit.run"])


@pytest.mark.slow
@pytest.mark.parametrize("method", KILLED_AT)
def test_killed_at_any_request_it_goes_on_and_does_nothing_twice(method, place, site):
    """SIGKILL while the site answers: what was asked for is done there, and we do not know it."""
    assert killed(place, site, method) == -signal.SIGKILL
    assert main(COMMAND) == 0
    assert {name: site.count(name) for name in ACTIONS} == dict.fromkeys(ACTIONS, 1)
    assert site.count("CreateDatasetVersion") == 0
    assert len(ledger(place)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("method", ["CreateDataset", "CreateCodeSubmission"])
def test_a_client_that_outlives_us_is_waited_for(method, place, own_process_site, monkeypatch):
    """The client's process still holds the lock; the next start sees what it has done."""
    site = own_process_site
    with monkeypatch.context() as quick:
        quick.setattr(client, "run_process", client_in_process)
        if method == "CreateCodeSubmission":
            assert main([*COMMAND, "--no-submit"]) == 0
    assert killed(place, site, method, own_process=True) == -signal.SIGKILL
    monkeypatch.setattr(client, "run_process", client_in_process)
    assert main(COMMAND) == 0
    assert {name: site.count(name) for name in ACTIONS} == dict.fromkeys(ACTIONS, 1)


def test_the_ledger_has_each_submission_once_and_is_only_added_to(place, site):
    """Killed before it could note that the line stands, or in the middle of a line."""
    assert main(COMMAND) == 0
    path = place / "runs" / "submissions" / "submissions.jsonl"
    before = path.read_text()
    with path.open("a") as stream:
        stream.write('{"name": "half')
    forget(place, in_ledger=False)
    assert main(COMMAND) == 0
    assert main([*COMMAND, "--again"]) == 0
    folders = sorted(path.name for path in (place / "runs" / "submissions").iterdir() if path.is_dir())
    assert [entry["name"] for entry in ledger(place)] == folders
    assert path.read_text().startswith(before), "what stands is never changed"
