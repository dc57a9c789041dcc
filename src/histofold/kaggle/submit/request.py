"""From weights and a kernel to a score: all steps, each of them done once, however often it is started."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from pathlib import Path

from tqdm import tqdm

from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.kaggle.metadata.findings import PLACEHOLDER_OWNER
from histofold.kaggle.submit.client import (
    KaggleClient,
    dataset_upload_command,
    output_command,
    push_command,
    status_command,
    submit_command,
)
from histofold.kaggle.submit.dataset import Job
from histofold.kaggle.submit.inputs import SubmitInputs, SubmitRequest, check_inputs, digests, lay_out, request_key
from histofold.kaggle.submit.output import failed_words
from histofold.kaggle.submit.state import StateFile, SubmitState, locked, read_states
from histofold.kaggle.submit.steps import steps_of
from histofold.kaggle.submit.wait import Patience

CLIENT_LOG_NAME = "client.log"


def run_request(request: SubmitRequest, root: Path, patience: Patience, again: bool = False) -> SubmitState:
    """Do everything that a request asks for, or what is left of it.

    Args:
        request: What the user asks for.
        root: The folder of all submissions.
        patience: How to wait.
        again: Whether to begin anew what was done to its end before.

    Returns:
        The state at the end.

    Raises:
        InputError: With all faults of the input, before anything is uploaded; or with what Kaggle has refused, after
            which the same request goes on where it stopped.
    """
    inputs = check_inputs(request)
    for notice in inputs.notices:
        logger.info("%s", notice)
    with locked(root, request.competition) as lock:
        inputs = _with_owner_of(request, inputs, KaggleClient(lock=lock))
        file = _state_file(request, inputs, root, again)
        dataset, kernel = lay_out(inputs, file.folder)
        client = KaggleClient(file.folder / CLIENT_LOG_NAME, lock)
        accelerator = request.accelerator or inputs.kernel["machine_shape"]
        job = Job(request, client, file, dataset, kernel, accelerator, patience)
        with tqdm(steps_of(request), desc="submit", unit="step", dynamic_ncols=True) as bar:
            for step in bar:
                bar.set_postfix_str(step.words)
                if not step.is_done(file.state):
                    step.act(job)
    if file.state.status == "ERROR":
        word = file.state.error or "no word"
        raise InputError([Fault(f"submission {file.state.ref}", str(file.folder), word, failed_words(word))])
    return file.state


def planned_commands(request: SubmitRequest, root: Path) -> list[str]:
    """Every command that a request would lead to, in order, as one would type it; nothing is asked or written.

    Raises:
        InputError: With all faults of the input.
    """
    inputs = check_inputs(request)
    if request.owner:
        inputs = inputs.owned_by(request.owner)
    folder = root / "TIME"
    dataset, kernel = inputs.dataset["id"], inputs.kernel["id"]
    message = f"{request.message} [TIME]".strip()
    accelerator = request.accelerator or inputs.kernel["machine_shape"]
    lines = [] if request.owner or not inputs.needs_owner else [("kaggle config view", "whose name to fill in")]
    lines += [
        (_typed(status_command(dataset)), "is it there? is it ready?"),
        (_typed(dataset_upload_command(folder / "dataset", "")), "where it is not there"),
        (_typed(dataset_upload_command(folder / "dataset", message)), "where it is, with other files"),
        (_typed(status_command(dataset)), "until it says ready"),
        (f"GetKernel {kernel}", "a request: its newest version, so that no push is done twice"),
        (_typed(push_command(folder / "kernel", request.timeout_s, accelerator)), ""),
        (_typed(("kernels", "status", kernel)), "until it says COMPLETE"),
        (_typed(output_command(kernel, folder / "output")), ""),
    ]
    if request.submit and not request.training:
        lines.append((_typed(submit_command(request.slug, kernel, "VERSION", message)), ""))
        lines.append((f"ListSubmissions {request.slug}", "a request: until the one of this tag is scored"))
    return [f"{command}    # {note}" if note else command for command, note in lines]


def _typed(arguments: tuple[str, ...]) -> str:
    return f"kaggle {shlex.join(arguments)}"


def _with_owner_of(request: SubmitRequest, inputs: SubmitInputs, client: KaggleClient) -> SubmitInputs:
    """The inputs with an account's name in every place.

    Raises:
        InputError: If neither the command line nor the metadata nor the credentials name an account.
    """
    if not inputs.needs_owner:
        return inputs
    owner = request.owner or client.owner()
    if not owner or owner == PLACEHOLDER_OWNER:
        rule = f"the placeholder {PLACEHOLDER_OWNER} stands there, and the credentials name no account"
        remedy = "give --owner NAME, or log in: kaggle auth login"
        raise InputError([Fault("id", "dataset-metadata.json, kernel-metadata.json", rule, remedy)])
    logger.info("owner: %s", owner)
    return inputs.owned_by(owner)


def _state_file(request: SubmitRequest, inputs: SubmitInputs, root: Path, again: bool) -> StateFile:
    """The state of an earlier start of the same request, or a new one."""
    key = request_key(request, inputs)
    earlier = [file for file in read_states(root) if file.state.key == key]
    if earlier and not (again and all(step.is_done(earlier[-1].state) for step in steps_of(request))):
        logger.info("going on with %s", earlier[-1].folder)
        return earlier[-1]
    weights, kernel = digests(inputs)
    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}-{key[:6]}"
    while (root / name).exists():
        name += "a"
    (root / name).mkdir(parents=True)
    file = StateFile(
        root / name,
        SubmitState(
            key=key,
            name=name,
            competition=request.competition,
            dataset=inputs.dataset["id"],
            kernel=inputs.kernel["id"],
            weights_sha256=weights,
            kernel_sha256=kernel,
        ),
    )
    file.update()
    return file
