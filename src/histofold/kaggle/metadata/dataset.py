"""dataset-metadata.json: written as Kaggle's command line wants it, and checked before it with the folder it is for.

The command line (kaggle 2.2.4) leaves sub-folders out without a word and stops at the first fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from histofold.core.faults import Fault, InputError
from histofold.kaggle.metadata.report import PLACEHOLDER_OWNER, MetadataReport, read_checked

DATASET_METADATA_NAME = "dataset-metadata.json"
# docs/datasets_metadata.md of the same version.
LICENCES = (
    *("CC0-1.0", "CC-BY-3.0", "CC-BY-3.0-IGO", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0"),
    *("CC-BY-NC-SA-3.0-IGO", "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0", "CC-BY-NC-ND-4.0", "GPL-2.0", "GPL-3.0", "LGPL-3.0"),
    *("AGPL-3.0", "FDL-1.3", "ODbL-1.0", "DbCL-1.0", "ODC-BY-1.0", "PDDL", "CDLA-Permissive-1.0", "CDLA-Sharing-1.0"),
    *("apache-2.0", "US-Government-Works", "EU-ODP-Legal-Notice", "copyright-authors", "other", "unknown"),
)

_DATASET_KEYS = (
    *("id", "id_no", "title", "subtitle", "description", "licenses", "resources", "keywords"),
    *("expectedUpdateFrequency", "userSpecifiedSources", "image"),
)
# The client passes over files of these names, by the code of the same version (`upload_files`).
_LEFT_OUT = ("kernel-metadata.json", "model-metadata.json", "model-instance-metadata.json", "datapackage.json")


def dataset_metadata(slug: str, title: str, licence: str, description: str = "") -> dict[str, Any]:
    """The content of dataset-metadata.json; where the licence is `other`, the description says what that means.

    Raises:
        InputError: With every fault that `check_dataset_metadata` would find in it.
    """
    data: dict[str, Any] = {"id": f"{PLACEHOLDER_OWNER}/{slug}", "title": title, "licenses": [{"name": licence}]}
    if description:
        data["description"] = description
    if faults := check_dataset_metadata(data)[0]:
        raise InputError(faults)
    return data


def wheels_notice(wheels: Sequence[Path]) -> str:
    """What a dataset's description says of wheels of others in it, for the licence `other`; empty without wheels."""
    if not wheels:
        return ""
    names = ", ".join(" ".join(path.name.split("-")[:2]) for path in wheels)
    return (
        f"Holds Python packages as wheels ({names}), so that a kernel without internet can import them. Each is under "
        "the licence of its authors, which its dist-info folder names. Their code is unchanged. The licence of all "
        "other files is for the owner of this dataset to name here."
    )


def check_dataset_metadata(data: Any, folder: Path | None = None) -> tuple[list[Fault], list[str]]:
    """Every fault of a dataset's metadata, and of the folder to upload where one is given; and notices."""
    report = MetadataReport(DATASET_METADATA_NAME, data, _DATASET_KEYS)
    if isinstance(data, Mapping):
        report.own_id(6, 50)
        title = report.text("title", 6, 50)
        if title == "INSERT_TITLE_HERE":
            report.fault("title", "is still the template's", "write the dataset's title")
        if data.get("subtitle"):
            report.text("subtitle", 20, 80)
        if "description" in data:
            report.text("description", 0)
        _check_licence(report)
        report.texts("keywords")
        if folder is not None:
            _check_resources(report, folder)
    if folder is not None:
        _check_flat(report, folder)
    return report.faults, report.notices


def read_dataset_metadata(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The metadata of a folder that is to be uploaded, and notices; see `read_checked`."""
    return read_checked(folder / DATASET_METADATA_NAME, check_dataset_metadata)


def _check_licence(report: MetadataReport) -> None:
    value = report.data.get("licenses")
    form = 'write exactly one, as [{"name": "CC-BY-4.0"}]'
    if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], Mapping):
        report.fault("licenses", "missing" if value is None else f"is {value!r}", form)
    elif value[0].get("name") not in LICENCES:
        rule = f"{value[0].get('name')!r} is no licence that Kaggle knows"
        report.fault("licenses", rule, f"use `other` and describe it, or one of: {', '.join(LICENCES)}")


def _check_resources(report: MetadataReport, folder: Path) -> None:
    """Report resources that are no list of files of the folder, each named once."""
    resources = report.data.get("resources")
    if resources is None:
        return
    if not isinstance(resources, list) or not all(isinstance(item, Mapping) for item in resources):
        report.fault("resources", f"is {resources!r}", 'write a list such as [{"path": "manifest.json"}]')
        return
    paths = [item.get("path") for item in resources]
    for path in paths:
        if not isinstance(path, str) or not (folder / path).is_file():
            report.fault("resources", f"there is no file {path}", "name files of the folder")
    for path in sorted({path for path in paths if isinstance(path, str) and paths.count(path) > 1}):
        report.fault("resources", f"names {path!r} twice", "name it once")


def _check_flat(report: MetadataReport, folder: Path) -> None:
    """Kaggle leaves sub-folders out without a word, and refuses a dataset without files."""
    if not folder.is_dir():
        report.fault(str(folder.name), "no such folder", "check the path")
        return
    entries = sorted(folder.iterdir())
    for entry in entries:
        if entry.is_dir():
            rule = "a sub-folder, which an upload leaves out without a word"
            report.fault(entry.name, rule, "keep the dataset flat: move its files up or remove it")
        elif entry.name in _LEFT_OUT or entry.name.startswith("dataset-cover-image."):
            report.notices.append(f"{report.file}: {entry.name}: an upload leaves a file of this name out")
    if not any(entry.is_file() and entry.name != DATASET_METADATA_NAME for entry in entries):
        report.fault("files", "the folder holds no file to upload", "fill it: `histofold package`")
