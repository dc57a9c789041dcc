"""From weights and a kernel to a score: all steps, each of them done once, however often it is started."""

from __future__ import annotations

import shlex
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from tqdm import tqdm

from histofold.competitions.registry import get_competition
from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.kaggle.metadata.report import PLACEHOLDER_OWNER
from histofold.kaggle.submit.client import CALLS, KaggleClient, command
from histofold.kaggle.submit.explain import SUBMISSION_WORDS, explain
from histofold.kaggle.submit.inputs import UploadFolder, check_inputs, digest_of
from histofold.kaggle.submit.request import SubmitRequest
from histofold.kaggle.submit.state import StateFile, SubmitState, Upload, locked, read_states
from histofold.kaggle.submit.steps import Job, steps_of

CLIENT_LOG_NAME = "client.log"


def submit(request: SubmitRequest) -> str:
    """Do everything that a request asks for, or what is left of it.

    Returns:
        What has become of it, in words.

    Raises:
        InputError: With all faults of the input, before anything is uploaded; or with what Kaggle has refused, after
            which the same request goes on where it stopped.
    """
    slug = _slug_of(request)
    if request.training is None:
        folders = _folders(request, slug, request.out)
    else:
        with locked(request.out, request.competition):  # a client that outlived an earlier start may be reading them
            folders = _folders(request, slug, request.out)
    dataset, kernel = check_inputs(request, slug, *folders)
    for notice in (*dataset.notices, *kernel.notices):
        if "placeholder owner" not in notice:  # it is filled in; to say that it is missing would only confuse
            logger.info("%s", notice)
    with locked(request.out, request.competition) as lock:
        if dataset.needs_owner or kernel.needs_owner:
            owner = request.owner or _owner_of_credentials(KaggleClient({}, lock=lock))
            logger.info("owner: %s", owner)
            dataset, kernel = dataset.owned_by(owner), kernel.owned_by(owner)
        file = _state_file(request, dataset, kernel)
        dataset.copy_to(file.folder / "dataset", link=True)
        kernel.copy_to(file.folder / "kernel", link=False)
        values = _call_values(request, slug, dataset, kernel, file.folder)
        job = Job(request=request, client=KaggleClient(values, file.folder / CLIENT_LOG_NAME, lock), file=file)
        with tqdm(steps_of(request), desc="submit", unit="step", dynamic_ncols=True) as bar:
            for step in bar:
                bar.set_postfix_str(step.words)
                if not step.is_done(file.state):
                    step.act(job)
    return _outcome(file)


def planned_commands(request: SubmitRequest) -> list[str]:
    """Every command that a request would lead to, in order, as one would type it; nothing is asked or written.

    Raises:
        InputError: With all faults of the input.
    """
    slug = _slug_of(request)
    with tempfile.TemporaryDirectory() as scratch:  # a training run's folders are written to be checked
        checked = check_inputs(request, slug, *_folders(request, slug, Path(scratch)))
    dataset, kernel = (folder.owned_by(request.owner) for folder in checked)
    values = _call_values(request, slug, dataset, kernel, request.out / "TIME") | {"version": "VERSION"}
    calls = ["dataset", "create", "version", "dataset", "GetKernel {kernel}", "push", "kernel", "output"]
    if dataset.needs_owner or kernel.needs_owner:
        calls.insert(0, "owner")
    if request.submits:
        calls += ["submit", "ListSubmissions {slug}"]  # what no call can ask is put as a request
    lines = []
    for call in calls:
        if call in CALLS:
            note = f"    # {CALLS[call][1]}" if CALLS[call][1] else ""
            lines.append(f"kaggle {shlex.join(command(call, values))}{note}")
        else:
            lines.append(f"{call.format(**values)}    # a request")
    return lines


def _call_values(
    request: SubmitRequest, slug: str, dataset: UploadFolder, kernel: UploadFolder, folder: Path
) -> dict[str, object]:
    """What is filled into the calls of the client."""
    tag = f"[{folder.name}]"  # the submission is found again by it
    return {
        "slug": slug,
        "dataset": dataset.id,
        "kernel": kernel.id,
        "folder": folder,
        "output": folder / "output",
        "timeout_s": request.timeout_s,
        "accelerator": request.accelerator or kernel.metadata["machine_shape"],
        "tag": tag,
        "message": f"{request.message} {tag}".strip(),
    }


def _slug_of(request: SubmitRequest) -> str:
    """Name of the competition on Kaggle.

    Raises:
        InputError: It is not one of Kaggle's.
    """
    slug = get_competition(request.competition).slug
    if not slug:
        rule = "it is not a competition of Kaggle's"
        raise InputError([Fault(request.competition, "command line", rule, "name hubmap_2022 or kidney_2020")])
    return slug


def _folders(request: SubmitRequest, slug: str, out: Path) -> tuple[Path, Path]:
    """The folders of the dataset and the kernel; those of a training run are written first, below `out`."""
    if request.training is not None:
        from histofold.kaggle.training_notebook import write_training  # it may load torch

        folder = out / f"training_{request.training.stem}"
        return write_training(request.competition, slug, request.training, folder, request.folds)
    named = request.kernel / request.competition
    return request.weights, named if named.is_dir() else request.kernel


def _owner_of_credentials(client: KaggleClient) -> str:
    """The account that the client is logged in to.

    Raises:
        InputError: There is none.
    """
    owner = client.owner()
    if not owner or owner == PLACEHOLDER_OWNER:
        rule = f"the placeholder {PLACEHOLDER_OWNER} stands there, and the credentials name no account"
        remedy = "give --owner NAME, or log in: kaggle auth login"
        raise InputError([Fault("id", "dataset-metadata.json, kernel-metadata.json", rule, remedy)])
    return owner


def _state_file(request: SubmitRequest, dataset: UploadFolder, kernel: UploadFolder) -> StateFile:
    """The state of an earlier start of the same request, or a new one.

    The same is what would put the same onto Kaggle: weights, kernel, message, machine and time-out.
    """
    weights_sha256, kernel_sha256 = dataset.sha256(), kernel.sha256()
    machine = [request.accelerator, request.timeout_s]
    asked = [request.competition, request.message, request.training is not None, machine, weights_sha256, kernel_sha256]
    key = digest_of(asked)
    earlier = [file for file in read_states(request.out) if file.state.key == key]
    if earlier and not (request.again and all(step.is_done(earlier[-1].state) for step in steps_of(request))):
        logger.info("going on with %s", earlier[-1].folder)
        return earlier[-1]
    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}-{key[:6]}"
    (request.out / name).mkdir(parents=True)
    state = SubmitState(
        key=key,
        name=name,
        competition=request.competition,
        weights_sha256=weights_sha256,
        kernel_sha256=kernel_sha256,
        dataset=Upload(name=dataset.id),
        kernel=Upload(name=kernel.id),
    )
    file = StateFile(request.out / name, state)
    file.update()
    return file


def _outcome(file: StateFile) -> str:
    """What is printed at the end.

    Raises:
        InputError: The submission was not scored; with the site's word, its cause and the cure.
    """
    submission, kernel = file.state.submission, file.state.kernel
    where = f"output and log: {file.folder / 'output'}"
    if submission.status == "ERROR":
        word = submission.error or "no word"
        known = explain(word, SUBMISSION_WORDS)
        remedy = "; ".join(map(str, known)) if known else "look at the submission's page"
        raise InputError([Fault(f"submission {submission.ref}", str(file.folder), word, remedy)])
    if not submission.ref:
        return f"kernel {kernel.name}, version {kernel.version}, has run; {where}"
    public, private = submission.public_score or "not given", submission.private_score or "not given"
    return f"submission {submission.ref}: public {public}, private {private}; {where}"
