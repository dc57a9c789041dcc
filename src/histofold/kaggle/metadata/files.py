"""kernel-metadata.json and dataset-metadata.json: written as Kaggle's command line wants them, and checked before it.

The command line (kaggle 2.2.4) ignores unknown keys, turns the internet on where nothing is said, leaves sub-folders
out without a word and stops at the first fault. So the checks here know all keys and report all faults at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from histofold.core.faults import Fault, InputError
from histofold.kaggle.metadata.checks import (
    KIND_OF_SUFFIX,
    MACHINE_SHAPES,
    check_code_file,
    check_flat,
    check_resources,
    dataset_report,
    kernel_report,
    slugify,
)
from histofold.kaggle.metadata.findings import PLACEHOLDER_OWNER


def kernel_metadata(
    competition_slug: str,
    kernel_name: str,
    code_file: str,
    dataset_sources: Sequence[str],
    machine_shape: str = MACHINE_SHAPES[0],
    owner: str = PLACEHOLDER_OWNER,
) -> dict[str, Any]:
    """The content of kernel-metadata.json for an inference kernel: private, without internet.

    Args:
        competition_slug: The competition's slug, e.g. "hubmap-organ-segmentation"; empty for none.
        kernel_name: Name of the kernel; its slug and title are made of it.
        code_file: Name of the script (.py) or notebook (.ipynb) beside the metadata.
        dataset_sources: Datasets with the weights, as owner/slug or owner/slug/version.
        machine_shape: One of MACHINE_SHAPES.
        owner: The account; the placeholder stays in what is committed.

    Raises:
        InputError: With every fault that `check_kernel_metadata` would find in it, but for missing files.
    """
    slug = slugify(kernel_name)
    data = {
        "id": f"{owner}/{slug}",
        "title": slug.replace("-", " "),
        "code_file": code_file,
        "language": "python",
        "kernel_type": KIND_OF_SUFFIX.get(Path(code_file).suffix, "script"),
        "is_private": True,
        "enable_internet": False,
        "machine_shape": machine_shape,
        "dataset_sources": list(dataset_sources),
        "competition_sources": [competition_slug] if competition_slug else [],
        "kernel_sources": [],
        "model_sources": [],
    }
    report = kernel_report(data)
    if report.faults:
        raise InputError(report.faults)
    return data


def dataset_metadata(
    slug: str, title: str, licence: str, owner: str = PLACEHOLDER_OWNER, description: str = ""
) -> dict[str, Any]:
    """The content of dataset-metadata.json.

    Args:
        slug: Name in the address, 6 to 50 characters.
        title: Title, 6 to 50 characters.
        licence: One of LICENCES.
        owner: The account; the placeholder stays until the upload.
        description: What the dataset's page says; where the licence is `other`, what that means.

    Raises:
        InputError: With every fault that `check_dataset_metadata` would find in it.
    """
    data: dict[str, Any] = {"id": f"{owner}/{slug}", "title": title, "licenses": [{"name": licence}]}
    if description:
        data["description"] = description
    report = dataset_report(data)
    if report.faults:
        raise InputError(report.faults)
    return data


def wheels_notice(wheels: Sequence[Path]) -> str:
    """What a dataset's description says of the packages of others in it, for the licence `other`.

    Args:
        wheels: The wheels in the dataset.

    Returns:
        A notice that names each of them; empty where there is none.
    """
    if not wheels:
        return ""
    names = ", ".join(" ".join(path.name.split("-")[:2]) for path in wheels)
    return (
        f"Holds Python packages as wheels ({names}), so that a kernel without internet can import them. Each is under "
        "the licence of its authors, which its dist-info folder names. Their code is unchanged. The licence of all "
        "other files is for the owner of this dataset to name here."
    )


def with_owner(data: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Metadata with an account's name wherever the placeholder stands as an owner."""

    def filled(value: Any) -> Any:
        if isinstance(value, list):
            return [filled(item) for item in value]
        is_ours = isinstance(value, str) and value.startswith(PLACEHOLDER_OWNER + "/")
        return owner + value.removeprefix(PLACEHOLDER_OWNER) if is_ours else value

    owned = ("id", "dataset_sources", "kernel_sources", "model_sources")
    return {key: filled(value) if key in owned else value for key, value in data.items()}


def check_kernel_metadata(data: Any, folder: Path) -> tuple[list[Fault], list[str]]:
    """Every fault of a kernel's metadata, and notices of what is lawful but worth a look.

    Args:
        data: What the JSON file holds.
        folder: The folder that holds the file and the code.
    """
    report = kernel_report(data)
    if isinstance(data, Mapping):
        check_code_file(report, data, Path(folder))
    return report.faults, report.notices


def check_dataset_metadata(data: Any, folder: Path) -> tuple[list[Fault], list[str]]:
    """Every fault of a dataset's metadata and of its folder, and notices.

    Args:
        data: What the JSON file holds.
        folder: The folder that is to be uploaded.
    """
    report = dataset_report(data)
    if isinstance(data, Mapping):
        check_resources(report, data.get("resources"), Path(folder))
    check_flat(report, Path(folder))
    return report.faults, report.notices
