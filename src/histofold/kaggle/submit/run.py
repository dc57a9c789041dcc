"""From weights and a kernel to a score: all steps, each of them done once, however often it is started."""

from __future__ import annotations

import shlex
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from histofold.competitions.registry import get_competition
from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.kaggle.bundle.kernels import KERNELS
from histofold.kaggle.metadata.report import PLACEHOLDER_OWNER
from histofold.kaggle.submit.client import CALLS, REQUESTS, KaggleClient, command
from histofold.kaggle.submit.explain import SUBMISSION_WORDS, explain
from histofold.kaggle.submit.inputs import UploadFolder, check_inputs, digest_of
from histofold.kaggle.submit.request import Progress, StateFile, SubmitRequest, locked
from histofold.kaggle.submit.steps import Job, do_steps

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
        # The same request is what would put the same onto Kaggle.
        asked = [request.message, request.training is not None, request.accelerator, request.timeout_s]
        key = digest_of([*asked, dataset.sha256, kernel.sha256])
        file = StateFile(request.out, request.competition)
        folder = request.out / _begin(file, key, request).name
        dataset.copy_to(folder / "dataset", link=True)
        kernel.copy_to(folder / "kernel", link=False)
        client = KaggleClient(_call_values(request, slug, dataset, kernel, folder), folder / CLIENT_LOG_NAME, lock)
        job = Job(request=request, key=key, dataset=dataset, kernel=kernel, client=client, file=file)
        do_steps(job)
    return _outcome(job)


def _begin(file: StateFile, key: str, request: SubmitRequest) -> Progress:
    """How far an earlier start of the same request has come, or a new one."""
    earlier = file.state.requests.get(key)
    if earlier and not (request.again and earlier.is_done(request.submits)):
        logger.info("going on with %s", request.out / earlier.name)
        return earlier
    progress = Progress(name=f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}-{key[:6]}")
    file.note_progress(key, progress)
    return progress


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
    left_out = set() if dataset.needs_owner or kernel.needs_owner else {"owner"}
    left_out |= set() if request.submits else {"submit", "submissions"}
    lines = []
    for call, (_, note) in CALLS.items():
        if call not in left_out:
            words = shlex.join(command(call, values))
            lines.append(f"{'' if call in REQUESTS else 'kaggle '}{words}{'    # ' if note else ''}{note}")
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
    """Name of the competition on Kaggle; one that is not Kaggle's is refused."""
    slug = get_competition(request.competition).slug
    if not slug:
        rule = "it is not a competition of Kaggle's"
        raise InputError([Fault(request.competition, "command line", rule, f"name one of {', '.join(KERNELS)}")])
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
    """The account that the client is logged in to; without one nothing can be submitted."""
    owner = client.owner()
    if not owner or owner == PLACEHOLDER_OWNER:
        rule = f"the placeholder {PLACEHOLDER_OWNER} stands there, and the credentials name no account"
        remedy = "give --owner NAME, or log in: kaggle auth login"
        raise InputError([Fault("id", "dataset-metadata.json, kernel-metadata.json", rule, remedy)])
    return owner


def _outcome(job: Job) -> str:
    """What is printed at the end; of a submission that was not scored, the site's word, its cause and the cure."""
    submission, where = job.progress.submission, f"output and log: {job.folder / 'output'}"
    if submission.status == "ERROR":
        word = submission.error or "no word"
        known = explain(word, SUBMISSION_WORDS)
        remedy = "; ".join(map(str, known)) if known else "look at the submission's page"
        raise InputError([Fault(f"submission {submission.ref}", str(job.folder), word, remedy)])
    if not submission.ref:
        return f"kernel {job.kernel.id}, version {job.progress.kernel_version}, has run; {where}"
    public, private = submission.public_score or "not given", submission.private_score or "not given"
    return f"submission {submission.ref}: public {public}, private {private}; {where}"
