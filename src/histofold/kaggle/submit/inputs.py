"""What a submission is made of, checked before anything is uploaded, and laid out as Kaggle's client wants it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from histofold.core.faults import Fault, InputError
from histofold.kaggle.metadata.checks import DATASET_METADATA_NAME, KERNEL_METADATA_NAME, MACHINE_SHAPES
from histofold.kaggle.metadata.files import check_dataset_metadata, check_kernel_metadata, with_owner
from histofold.kaggle.metadata.findings import NAME_FORM, PLACEHOLDER_OWNER
from histofold.kaggle.weights_checks import check_weights_folder, read_metadata, upload_files
from histofold.schema.atomic import write_atomically
from histofold.schema.manifest import file_sha256


@dataclass(frozen=True, kw_only=True)
class SubmitRequest:
    """What the user asks for."""

    competition: str
    """Name of the adapter."""
    slug: str
    """Name of the competition on Kaggle."""
    weights: Path
    """The folder that becomes the dataset."""
    kernel: Path
    """The kernel's folder."""
    message: str
    """The message of the submission."""
    owner: str = ""
    """The Kaggle account; else that of the metadata, else that of the credentials."""
    accelerator: str = ""
    """The machine; else that of the kernel's metadata."""
    timeout_s: int = 9 * 3600
    """Longest run of the kernel, in seconds."""
    submit: bool = True
    """Whether to submit what the kernel has written."""
    training: bool = False
    """Whether this is a training notebook with its dataset, not weights with their kernel."""

    def __post_init__(self) -> None:
        faults = []
        if not self.slug:
            rule = "it is not a competition of Kaggle's"
            faults.append(Fault(self.competition, "command line", rule, "name hubmap_2022 or kidney_2020"))
        if not 60 <= self.timeout_s <= 12 * 3600:
            rule = f"{self.timeout_s / 3600:g} hours; Kaggle lets a kernel run 12 hours at most"
            faults.append(Fault("timeout-hours", "command line", rule, "give a number of hours up to 12"))
        if self.accelerator and self.accelerator not in MACHINE_SHAPES:
            rule, remedy = f"{self.accelerator!r} is not a machine", f"use one of: {', '.join(MACHINE_SHAPES)}"
            faults.append(Fault("accelerator", "command line", rule, remedy))
        if self.owner and (self.owner == PLACEHOLDER_OWNER or not NAME_FORM.fullmatch(self.owner)):
            rule = f"{self.owner!r} is not an account's name"
            faults.append(Fault("owner", "command line", rule, "give the name in the address of your profile"))
        if faults:
            raise InputError(faults)


@dataclass(frozen=True, kw_only=True)
class SubmitInputs:
    """What is uploaded: without fault, but with the placeholder still in it where there was one."""

    dataset: dict[str, Any]
    """Content of dataset-metadata.json."""
    kernel: dict[str, Any]
    """Content of kernel-metadata.json."""
    files: tuple[Path, ...]
    """The files of the dataset."""
    code: Path
    """Script or notebook."""
    notices: list[str] = field(default_factory=list)
    """What is lawful but worth a look."""

    @property
    def needs_owner(self) -> bool:
        """Whether the placeholder stands where an account's name must."""
        return any(PLACEHOLDER_OWNER in str(value) for value in (self.dataset["id"], *_references(self.kernel)))

    def owned_by(self, owner: str) -> SubmitInputs:
        """The same with an account's name for the placeholder."""
        dataset, kernel = with_owner(self.dataset, owner), with_owner(self.kernel, owner)
        return SubmitInputs(dataset=dataset, kernel=kernel, files=self.files, code=self.code, notices=self.notices)


def check_inputs(request: SubmitRequest) -> SubmitInputs:
    """Check weights and kernel, each and against the other.

    Raises:
        InputError: With all faults of both. Nothing has been uploaded then.
    """
    faults: list[Fault] = []
    checked = _collected(faults, lambda: _check_dataset(request))
    kernel = _collected(faults, lambda: _check_kernel(request))
    if checked is not None and kernel is not None:
        faults += _misfits(request, checked[0], kernel[0])
    if checked is None or kernel is None or faults:
        raise InputError(faults)
    dataset, files, dataset_notices = checked
    # The owner is filled in; to say that it is missing would only confuse.
    notices = [text for text in dataset_notices + kernel[1] if "placeholder owner" not in text]
    code = request.kernel / kernel[0]["code_file"]
    return SubmitInputs(dataset=dataset, kernel=kernel[0], files=tuple(files), code=code, notices=notices)


def _check_dataset(request: SubmitRequest) -> tuple[dict[str, Any], list[Path], list[str]]:
    """Metadata, files and notices of the folder that becomes the dataset."""
    folder = request.weights
    if request.training:
        data = read_metadata(folder / DATASET_METADATA_NAME)
        faults, notices = check_dataset_metadata(data, folder)
        if faults:
            raise InputError(faults)
        return data, sorted(p for p in folder.iterdir() if p.name != DATASET_METADATA_NAME), notices
    manifest, notices = check_weights_folder(folder)
    if manifest.competition != request.competition:
        rule = f"its weights are of {manifest.competition}, and {request.competition} is to be submitted"
        raise InputError([Fault("competition", str(folder), rule, "package a run of this competition")])
    return read_metadata(folder / DATASET_METADATA_NAME), upload_files(manifest, folder), notices


def _check_kernel(request: SubmitRequest) -> tuple[dict[str, Any], list[str]]:
    """Metadata and notices of the kernel's folder."""
    data = read_metadata(request.kernel / KERNEL_METADATA_NAME)
    faults, notices = check_kernel_metadata(data, request.kernel)
    if faults:
        raise InputError(faults)
    return data, notices


def _misfits(request: SubmitRequest, dataset: dict[str, Any], kernel: dict[str, Any]) -> list[Fault]:
    """Where kernel, dataset and competition do not belong together."""
    faults = []
    file = str(request.kernel / KERNEL_METADATA_NAME)
    if request.slug not in kernel.get("competition_sources", []):
        rule = f"does not name {request.slug}"
        remedy = f"write the kernel anew: `histofold kernel {request.competition}`"
        faults.append(Fault("competition_sources", file, rule, remedy))
    if request.owner:
        dataset, kernel = with_owner(dataset, request.owner), with_owner(kernel, request.owner)
    sources = ["/".join(source.split("/")[:2]) for source in kernel.get("dataset_sources", [])]
    if dataset["id"] not in sources:
        rule = f"names {', '.join(sources) or 'nothing'}, and the weights become {dataset['id']}"
        remedy = f"`histofold kernel {request.competition} --dataset {dataset['id']}`"
        faults.append(Fault("dataset_sources", file, rule, remedy))
    return faults


def _collected(faults: list[Fault], check: Callable[[], Any]) -> Any:
    """What a check gives; None where it finds faults, which are collected."""
    try:
        return check()
    except InputError as error:
        faults += error.faults or [Fault("input", "command line", str(error), "mend it")]
        return None


def _references(kernel: dict[str, Any]) -> list[str]:
    keys = ("dataset_sources", "kernel_sources", "model_sources")
    return [kernel["id"], *(source for key in keys for source in kernel.get(key, []))]


def digests(inputs: SubmitInputs) -> tuple[str, str]:
    """SHA-256 of what becomes the dataset, and of what becomes the kernel, metadata included."""
    files = {path.name: file_sha256(path) for path in inputs.files}
    kernel = {"metadata": inputs.kernel, "code": file_sha256(inputs.code)}
    return _digest({"metadata": inputs.dataset, "files": files}), _digest(kernel)


def request_key(request: SubmitRequest, inputs: SubmitInputs) -> str:
    """Digest of all that decides what reaches Kaggle; the same request goes on where it was left."""
    weights, kernel = digests(inputs)
    machine = [request.accelerator, request.timeout_s]
    return _digest([request.competition, request.message, request.training, machine, weights, kernel])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def lay_out(inputs: SubmitInputs, folder: Path) -> tuple[Path, Path]:
    """Make the two folders that are uploaded: the originals stay as they are, and weights are linked, not copied.

    Args:
        inputs: With the owner filled in.
        folder: The submission's own folder.

    Returns:
        The folder of the dataset and that of the kernel.
    """
    dataset, kernel = folder / "dataset", folder / "kernel"
    for target in (dataset, kernel):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
    for path in inputs.files:
        (dataset / path.name).symlink_to(path.resolve())
    shutil.copyfile(inputs.code, kernel / inputs.code.name)
    write_atomically(dataset / DATASET_METADATA_NAME, json.dumps(inputs.dataset, indent=2) + "\n")
    write_atomically(kernel / KERNEL_METADATA_NAME, json.dumps(inputs.kernel, indent=2) + "\n")
    return dataset, kernel
