"""What a submission is made of: two folders, checked before anything is uploaded, and laid out for Kaggle's client."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from histofold.core.faults import Fault, InputError
from histofold.kaggle.metadata.dataset import DATASET_METADATA_NAME, read_dataset_metadata
from histofold.kaggle.metadata.kernel import KERNEL_METADATA_NAME, read_kernel_metadata
from histofold.kaggle.metadata.report import read_metadata, with_owner
from histofold.kaggle.submit.request import SubmitRequest
from histofold.kaggle.weights_folder import check_weights_folder, upload_files
from histofold.schema.manifest import file_sha256
from histofold.schema.parse import write_json


@dataclass(frozen=True, kw_only=True)
class UploadFolder:
    """A folder without fault, but with the placeholder still in it where there was one."""

    metadata_name: str
    """Name of its metadata file."""
    metadata: dict[str, Any]
    """What that holds."""
    files: tuple[Path, ...]
    """What is uploaded with it."""
    notices: tuple[str, ...]
    """What is lawful but worth a look."""

    @property
    def id(self) -> str:
        """Name at Kaggle's, owner/slug."""
        return str(self.metadata["id"])

    @property
    def needs_owner(self) -> bool:
        """Whether the placeholder stands where an account's name must."""
        return with_owner(self.metadata, "") != self.metadata

    def owned_by(self, owner: str) -> UploadFolder:
        """The same with an account's name for the placeholder."""
        return replace(self, metadata=with_owner(self.metadata, owner)) if owner else self

    @cached_property
    def sha256(self) -> str:
        """Digest of all that is uploaded."""
        return digest_of({"metadata": self.metadata, "files": {path.name: file_sha256(path) for path in self.files}})

    def copy_to(self, folder: Path, link: bool) -> None:
        """Make the folder that is uploaded: the original stays as it is; large files are linked, not copied."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for path in self.files:
            if link:
                (folder / path.name).symlink_to(path.resolve())
            else:
                shutil.copyfile(path, folder / path.name)
        write_json(folder / self.metadata_name, self.metadata)


def digest_of(value: Any) -> str:
    """SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def check_inputs(request: SubmitRequest, slug: str, weights: Path, kernel: Path) -> tuple[UploadFolder, UploadFolder]:
    """Check dataset and kernel, each and against the other; the dataset of a training run holds no weights yet.

    Raises:
        InputError: With all faults of both. Nothing has been uploaded then.
    """
    checked: list[UploadFolder] = []
    faults: list[Fault] = []
    for folder, check in ((weights, _check_dataset), (kernel, _check_kernel)):
        try:
            checked.append(check(folder, request))
        except InputError as error:
            faults += error.faults or [Fault(folder.name, str(folder), str(error), "mend it")]
    if not faults:
        faults = _misfits(request, slug, kernel, *(folder.owned_by(request.owner).metadata for folder in checked))
    if faults:
        raise InputError(faults)
    return checked[0], checked[1]


def _check_dataset(folder: Path, request: SubmitRequest) -> UploadFolder:
    path = folder / DATASET_METADATA_NAME
    if request.training is None:
        manifest, notices = check_weights_folder(folder)
        if manifest.competition != request.competition:
            rule = f"its weights are of {manifest.competition}, and {request.competition} is to be submitted"
            raise InputError([Fault("competition", str(folder), rule, "package a run of this competition")])
        data, files = read_metadata(path), upload_files(manifest, folder)
    else:
        data, notices = read_dataset_metadata(folder)
        files = sorted(entry for entry in folder.iterdir() if entry != path)
    return UploadFolder(metadata_name=path.name, metadata=data, files=tuple(files), notices=tuple(notices))


def _check_kernel(folder: Path, request: SubmitRequest) -> UploadFolder:
    data, notices = read_kernel_metadata(folder)
    files = (folder / data["code_file"],)
    return UploadFolder(metadata_name=KERNEL_METADATA_NAME, metadata=data, files=files, notices=tuple(notices))


def _misfits(
    request: SubmitRequest, slug: str, folder: Path, dataset: dict[str, Any], kernel: dict[str, Any]
) -> list[Fault]:
    """Where kernel, dataset and competition do not belong together."""
    faults = []
    file = str(folder / KERNEL_METADATA_NAME)
    if slug not in kernel.get("competition_sources", []):
        remedy = f"write the kernel anew: `histofold kernel {request.competition}`"
        faults.append(Fault("competition_sources", file, f"does not name {slug}", remedy))
    sources = ["/".join(source.split("/")[:2]) for source in kernel.get("dataset_sources", [])]
    if dataset["id"] not in sources:
        rule = f"names {', '.join(sources) or 'nothing'}, and the weights become {dataset['id']}"
        remedy = f"`histofold kernel {request.competition} --dataset {dataset['id']}`"
        faults.append(Fault("dataset_sources", file, rule, remedy))
    return faults
