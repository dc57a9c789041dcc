"""kernel-metadata.json: written as Kaggle's command line wants it, and checked before it.

The command line (kaggle 2.2.4) ignores unknown keys, turns the internet on where nothing is said and stops at the first
fault. So the checks here know all keys and report all faults at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from histofold.core.faults import Fault, InputError
from histofold.kaggle.bundle.bundler import LIMIT_BYTES
from histofold.kaggle.metadata.report import NAME_FORM, PLACEHOLDER_OWNER, MetadataReport, read_checked

KERNEL_METADATA_NAME = "kernel-metadata.json"
# From the documentation of the command line 2.2.4 (docs/kernels.md, "Accelerators available as of Sep 2026"); its code
# has no list. NvidiaTeslaT4 means two T4. NvidiaTeslaT4Highmem is left out: only Kaggle's own staff may use it.
GPU_SHAPES = ("NvidiaTeslaT4", "NvidiaL4", "NvidiaL4X1", "NvidiaTeslaA100", "NvidiaH100", "NvidiaRtxPro6000")
TPU_SHAPES = ("TpuV5E8", "TpuV6E8")
MACHINE_SHAPES = GPU_SHAPES + TPU_SHAPES
# Still named by the command line's client library, but the server runs something else instead without a word.
RETIRED_SHAPES = ("NvidiaTeslaP100", "TpuV38", "Tpu1VmV38")

_KERNEL_KEYS = (
    *("id", "id_no", "title", "code_file", "language", "kernel_type", "is_private", "enable_internet", "enable_gpu"),
    *("enable_tpu", "machine_shape", "dataset_sources", "kernel_sources", "model_sources", "competition_sources"),
    *("keywords", "docker_image", "docker_image_pinning_type"),
)
KIND_OF_SUFFIX = {".py": "script", ".ipynb": "notebook"}


def slugify(title: str) -> str:
    """The slug that Kaggle makes of an ASCII title: lower case, every run of other signs one hyphen."""
    text = re.sub(r"(?<=\d),(?=\d)", "", title.lower())
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-")


def kernel_metadata(
    competition_slug: str,
    kernel_name: str,
    code_file: str,
    dataset_sources: Sequence[str],
) -> dict[str, Any]:
    """The content of kernel-metadata.json for an inference kernel: private, without internet.

    An empty slug is no competition; datasets are named owner/slug or owner/slug/version.

    Raises:
        InputError: With every fault that `check_kernel_metadata` would find in it, but for missing files.
    """
    slug = slugify(kernel_name)
    data = {
        "id": f"{PLACEHOLDER_OWNER}/{slug}",
        "title": slug.replace("-", " "),
        "code_file": code_file,
        "language": "python",
        "kernel_type": KIND_OF_SUFFIX.get(Path(code_file).suffix, "script"),
        "is_private": True,
        "enable_internet": False,
        "machine_shape": MACHINE_SHAPES[0],
        "dataset_sources": list(dataset_sources),
        "competition_sources": [competition_slug] if competition_slug else [],
        "kernel_sources": [],
        "model_sources": [],
    }
    if faults := check_kernel_metadata(data)[0]:
        raise InputError(faults)
    return data


def check_kernel_metadata(data: Any, folder: Path | None = None) -> tuple[list[Fault], list[str]]:
    """Every fault of a kernel's metadata, and of its code where a folder is given; and notices."""
    report = MetadataReport(KERNEL_METADATA_NAME, data, _KERNEL_KEYS)
    if not isinstance(data, Mapping):
        return report.faults, report.notices
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
    if folder is not None:
        _check_code_file(report, folder)
    return report.faults, report.notices


def read_kernel_metadata(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The metadata of a kernel's folder, and notices; see `read_checked`."""
    return read_checked(folder / KERNEL_METADATA_NAME, check_kernel_metadata)


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


def _check_code_file(report: MetadataReport, folder: Path) -> None:
    """Report a code file that is missing, elsewhere, too large, unreadable or not what kernel_type says."""
    name = report.text("code_file", 1)
    if not name:
        return
    path, kind_said = folder / name, report.data.get("kernel_type")
    kind = KIND_OF_SUFFIX.get(path.suffix)
    anew = "write it anew: `histofold kernel C`"
    if Path(name).is_absolute() or ".." in Path(name).parts:
        report.fault("code_file", f"{name!r} lies outside the kernel's folder", "put it beside the metadata")
    elif not path.is_file():
        report.fault("code_file", f"there is no file {name}", anew)
    elif kind is None or (kind_said in KIND_OF_SUFFIX.values() and kind != kind_said):
        rule = f"{name!r} does not fit the kernel_type {kind_said!r}"
        report.fault("code_file", rule, "use .py for a script and .ipynb for a notebook")
    elif (size := path.stat().st_size) > LIMIT_BYTES:
        rule = f"{name} has {size} bytes, more than the {LIMIT_BYTES} that Kaggle takes"
        report.fault("code_file", rule, "shorten it; weights belong into a dataset")
    elif not _is_readable(path, kind):
        report.fault("code_file", f"{name} is no readable {kind}", anew)


def _is_readable(path: Path, kind: str) -> bool:
    try:
        text = path.read_bytes().decode()
        return kind == "script" or isinstance(json.loads(text).get("cells"), list)
    except (ValueError, AttributeError):
        return False
