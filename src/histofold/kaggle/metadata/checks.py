"""What Kaggle takes in kernel-metadata.json and dataset-metadata.json, rule by rule."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from histofold.kaggle.bundle.bundler import LIMIT_BYTES
from histofold.kaggle.metadata.findings import NAME_FORM, MetadataReport

KERNEL_METADATA_NAME = "kernel-metadata.json"
DATASET_METADATA_NAME = "dataset-metadata.json"

# From the documentation of the command line 2.2.4 (docs/kernels.md, "Accelerators available as of Sep 2026"); its code
# has no list. NvidiaTeslaT4 means two T4. NvidiaTeslaT4Highmem is left out: only Kaggle's own staff may use it.
GPU_SHAPES = ("NvidiaTeslaT4", "NvidiaL4", "NvidiaL4X1", "NvidiaTeslaA100", "NvidiaH100", "NvidiaRtxPro6000")
TPU_SHAPES = ("TpuV5E8", "TpuV6E8")
MACHINE_SHAPES = GPU_SHAPES + TPU_SHAPES
# Still named by the command line's client library, but the server runs something else instead without a word.
RETIRED_SHAPES = ("NvidiaTeslaP100", "TpuV38", "Tpu1VmV38")

# docs/datasets_metadata.md of the same version.
LICENCES = (
    *("CC0-1.0", "CC-BY-3.0", "CC-BY-3.0-IGO", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0"),
    *("CC-BY-NC-SA-3.0-IGO", "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0", "CC-BY-NC-ND-4.0", "GPL-2.0", "GPL-3.0", "LGPL-3.0"),
    *("AGPL-3.0", "FDL-1.3", "ODbL-1.0", "DbCL-1.0", "ODC-BY-1.0", "PDDL", "CDLA-Permissive-1.0", "CDLA-Sharing-1.0"),
    *("apache-2.0", "US-Government-Works", "EU-ODP-Legal-Notice", "copyright-authors", "other", "unknown"),
)

_KERNEL_KEYS = (
    *("id", "id_no", "title", "code_file", "language", "kernel_type", "is_private", "enable_internet", "enable_gpu"),
    *("enable_tpu", "machine_shape", "dataset_sources", "kernel_sources", "model_sources", "competition_sources"),
    *("keywords", "docker_image", "docker_image_pinning_type"),
)
_DATASET_KEYS = (
    *("id", "id_no", "title", "subtitle", "description", "licenses", "resources", "keywords"),
    *("expectedUpdateFrequency", "userSpecifiedSources", "image"),
)
# The client passes over files of these names, by the code of the same version (`upload_files`).
_LEFT_OUT = ("kernel-metadata.json", "model-metadata.json", "model-instance-metadata.json", "datapackage.json")
KIND_OF_SUFFIX = {".py": "script", ".ipynb": "notebook"}


def slugify(title: str) -> str:
    """The slug that Kaggle makes of an ASCII title: lower case, every run of other signs one hyphen."""
    text = re.sub(r"(?<=\d),(?=\d)", "", title.lower())
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-")


# --- kernels ---------------------------------------------------------------------------------------------------------


def kernel_report(data: Any) -> MetadataReport:
    """All that can be said without looking at other files."""
    report = MetadataReport(KERNEL_METADATA_NAME, data, _KERNEL_KEYS)
    if not isinstance(data, Mapping):
        return report
    slug = report.own_id(5, None)
    _check_title(report, slug)
    report.choice("language", ["python"])
    report.choice("kernel_type", list(KIND_OF_SUFFIX.values()))
    report.choice("docker_image_pinning_type", ["original", "latest"], needed=False)
    if "docker_image" in data:
        report.text("docker_image", 1)
    _check_switches(report)
    _check_machine(report)
    _check_references(report, "dataset_sources", "owner/slug or owner/slug/version", (2, 3), 3)
    _check_references(report, "kernel_sources", "owner/slug or owner/slug/version", (2, 3), 5)
    _check_references(report, "model_sources", "owner/model/framework/variation/version", (5,), 1)
    for source in report.texts("competition_sources"):
        if not NAME_FORM.fullmatch(source):
            report.fault("competition_sources", f"{source!r} is no plain slug", "write the slug alone, without c/")
    report.texts("keywords")
    return report


def _check_title(report: MetadataReport, slug: str) -> None:
    title = report.text("title", 5)
    if title and not title.isascii():
        report.fault("title", f"{title!r} is not ASCII, so that its slug is uncertain", "use plain letters and digits")
    elif title and slug and slugify(title) != slug:
        rule = f"{title!r} gives the slug {slugify(title)!r} and id says {slug!r}: a new kernel would get the title's"
        report.fault("title", rule, f"use a title such as {slug.replace('-', ' ')!r}")


def _check_switches(report: MetadataReport) -> None:
    internet = report.flag("enable_internet")
    if "enable_internet" not in report.data:
        report.fault("enable_internet", "missing, and then the internet is on", "set it to false")
    elif internet:
        report.fault("enable_internet", "is true; competitions refuse such inference kernels", "set it to false")
    if report.flag("is_private") is False:
        report.notices.append(f"{report.file}: is_private is false: anyone can read the kernel")
    for key in ("enable_gpu", "enable_tpu"):
        if key in report.data:
            report.flag(key)
            report.notices.append(f"{report.file}: {key} is deprecated; machine_shape says it all")


def _check_machine(report: MetadataReport) -> None:
    shape = report.data.get("machine_shape")
    if shape in RETIRED_SHAPES:
        remedy = f"use {MACHINE_SHAPES[0]} (two T4)"
        report.fault("machine_shape", f"{shape} is retired: another machine would run the kernel", remedy)
        return
    report.choice("machine_shape", MACHINE_SHAPES)
    if shape in TPU_SHAPES:
        report.notices.append(f"{report.file}: {shape} has no GPU; the kernel would run on its processor")


def _check_references(
    report: MetadataReport, key: str, form: str, lengths: tuple[int, ...], shortest_slug: int
) -> None:
    """Sources named owner/slug, with a version as the last of the longest form."""
    for source in report.texts(key):
        parts = source.split("/")
        versioned = len(parts) == max(lengths)
        names = parts[:-1] if versioned else parts
        fits = (
            len(parts) in lengths
            and all(NAME_FORM.fullmatch(name) for name in names)
            and len(parts[1]) >= shortest_slug
        )
        if not fits or (versioned and not parts[-1].isdigit()):
            report.fault(key, f"{source!r} is no {form}", f"write {form}")
        else:
            report.owner_notice(key, parts[0])


def check_code_file(report: MetadataReport, data: Mapping[str, Any], folder: Path) -> None:
    """Report a code file that is missing, elsewhere, too large or not what kernel_type says."""
    name = report.text("code_file", 1)
    if not name:
        return
    path = folder / name
    kind = KIND_OF_SUFFIX.get(path.suffix)
    if Path(name).is_absolute() or ".." in Path(name).parts:
        report.fault("code_file", f"{name!r} lies outside the kernel's folder", "put it beside the metadata")
    elif not path.is_file():
        report.fault("code_file", f"there is no file {name}", "write it: `histofold kernel C`")
    elif kind is None or (data.get("kernel_type") in KIND_OF_SUFFIX.values() and kind != data["kernel_type"]):
        rule = f"{name!r} does not fit the kernel_type {data.get('kernel_type')!r}"
        report.fault("code_file", rule, "use .py for a script and .ipynb for a notebook")
    else:
        _check_code(report, path, kind)


def _check_code(report: MetadataReport, path: Path, kind: str) -> None:
    size = path.stat().st_size
    if size > LIMIT_BYTES:
        rule = f"{path.name} has {size} bytes, more than the {LIMIT_BYTES} that Kaggle takes"
        report.fault("code_file", rule, "shorten it; weights belong into a dataset")
        return
    try:
        text = path.read_bytes().decode()
        lawful = kind == "script" or isinstance(json.loads(text).get("cells"), list)
    except (ValueError, AttributeError):
        lawful = False
    if not lawful:
        report.fault("code_file", f"{path.name} is no readable {kind}", "write it anew: `histofold kernel C`")


# --- datasets --------------------------------------------------------------------------------------------------------


def dataset_report(data: Any) -> MetadataReport:
    """All that can be said without looking at the folder."""
    report = MetadataReport(DATASET_METADATA_NAME, data, _DATASET_KEYS)
    if not isinstance(data, Mapping):
        return report
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
    return report


def _check_licence(report: MetadataReport) -> None:
    value = report.data.get("licenses")
    form = 'write exactly one, as [{"name": "CC-BY-4.0"}]'
    if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], Mapping):
        report.fault("licenses", "missing" if value is None else f"is {value!r}", form)
    elif value[0].get("name") not in LICENCES:
        rule = f"{value[0].get('name')!r} is no licence that Kaggle knows"
        report.fault("licenses", rule, f"use `other` and describe it, or one of: {', '.join(LICENCES)}")


def check_resources(report: MetadataReport, resources: Any, folder: Path) -> None:
    """Report resources that are no list of files of the folder, each named once."""
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


def check_flat(report: MetadataReport, folder: Path) -> None:
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
