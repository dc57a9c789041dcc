"""kernel-metadata.json and dataset-metadata.json: written as Kaggle's command line wants them, and checked before it.

The command line (kaggle 2.2.4) ignores unknown keys, turns the internet on where nothing is said, leaves sub-folders
out without a word and stops at the first fault. So the checks here know all keys and report all faults at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from histoseg.core.faults import Fault, InputError
from histoseg.kaggle.bundler import LIMIT_BYTES

KERNEL_METADATA_NAME = "kernel-metadata.json"
DATASET_METADATA_NAME = "dataset-metadata.json"
PLACEHOLDER_OWNER = "your-kaggle-name"

# From the documentation of the pinned command line (docs/kernels.md, "Accelerators available as of Sep 2026"); its code
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
_SUFFIXES = {".py": "script", ".ipynb": "notebook"}
_OWN_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


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
        "kernel_type": _SUFFIXES.get(Path(code_file).suffix, "script"),
        "is_private": True,
        "enable_internet": False,
        "machine_shape": machine_shape,
        "dataset_sources": list(dataset_sources),
        "competition_sources": [competition_slug] if competition_slug else [],
        "kernel_sources": [],
        "model_sources": [],
    }
    report = _kernel_report(data)
    if report.faults:
        raise InputError(report.faults)
    return data


def dataset_metadata(slug: str, title: str, licence: str, owner: str = PLACEHOLDER_OWNER) -> dict[str, Any]:
    """The content of dataset-metadata.json.

    Args:
        slug: Name in the address, 6 to 50 characters.
        title: Title, 6 to 50 characters.
        licence: One of LICENCES.
        owner: The account; the placeholder stays until the upload.

    Raises:
        InputError: With every fault that `check_dataset_metadata` would find in it.
    """
    data = {"id": f"{owner}/{slug}", "title": title, "licenses": [{"name": licence}]}
    report = _dataset_report(data)
    if report.faults:
        raise InputError(report.faults)
    return data


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
    report = _kernel_report(data)
    if isinstance(data, Mapping):
        _check_code_file(report, data, Path(folder))
    return report.faults, report.notices


def check_dataset_metadata(data: Any, folder: Path) -> tuple[list[Fault], list[str]]:
    """Every fault of a dataset's metadata and of its folder, and notices.

    Args:
        data: What the JSON file holds.
        folder: The folder that is to be uploaded.
    """
    report = _dataset_report(data)
    if isinstance(data, Mapping):
        _check_resources(report, data.get("resources"), Path(folder))
    _check_flat(report, Path(folder))
    return report.faults, report.notices


def slugify(title: str) -> str:
    """The slug that Kaggle makes of an ASCII title: lower case, every run of other signs one hyphen."""
    text = re.sub(r"(?<=\d),(?=\d)", "", title.lower())
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-")


# --- both files ------------------------------------------------------------------------------------------------------


class _Report:
    """What was found in one metadata file."""

    def __init__(self, file: str, data: Any, known: Sequence[str]) -> None:
        self.file = file
        self.faults: list[Fault] = []
        self.notices: list[str] = []
        self.data: Mapping[str, Any] = data if isinstance(data, Mapping) else {}
        if not isinstance(data, Mapping):
            self.fault(
                file, f"holds a {type(data).__name__}, not an object", "write it anew: `histoseg kernel|package`"
            )
        for key in self.data:
            if key not in known:
                self.fault(str(key), "an unknown key, which Kaggle ignores", f"known ones: {', '.join(known)}")

    def fault(self, key: str, rule: str, remedy: str) -> None:
        self.faults.append(Fault(key, self.file, rule, remedy))

    def text(self, key: str, shortest: int, longest: int | None = None) -> str:
        """A text that must be there; empty if it is not, which is then reported."""
        value = self.data.get(key)
        span = f"{shortest} to {longest}" if longest else f"at least {shortest}"
        if value is None:
            self.fault(key, "missing", f"set it, {span} characters")
        elif not isinstance(value, str):
            self.fault(key, f"is {value!r}, not a text", f"write a text of {span} characters")
        elif len(value) < shortest or (longest and len(value) > longest):
            self.fault(key, f"has {len(value)} characters: {value!r}", f"write {span} characters")
        else:
            return value
        return ""

    def choice(self, key: str, options: Sequence[str], *, needed: bool = True) -> None:
        """A text that must be one of some."""
        value = self.data.get(key)
        if value is None and not needed:
            return
        if value not in options:
            self.fault(key, "missing" if value is None else f"is {value!r}", f"use one of: {', '.join(options)}")

    def flag(self, key: str) -> bool | None:
        """A truth value, which Kaggle also reads from the words true and false."""
        value = self.data.get(key)
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if value is not None and not isinstance(value, bool):
            self.fault(key, f"is {value!r}", "write true or false")
            return None
        return value

    def texts(self, key: str) -> list[str]:
        """A list of texts without doubles; empty where it is missing."""
        value = self.data.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.fault(key, f"is {value!r}", "write a list of texts")
            return []
        for item in sorted({item for item in value if value.count(item) > 1}):
            self.fault(key, f"names {item!r} twice", "name it once")
        return value

    def own_id(self, shortest: int, longest: int | None) -> str:
        """The slug of `id`, which must be owner/slug; empty if it is at fault."""
        value = self.data.get("id")
        form = f"write owner/slug, the slug in lower case, digits and single hyphens, {shortest}" + (
            f" to {longest} characters" if longest else " characters or more"
        )
        if "id_no" in self.data and not str(self.data["id_no"]).isdigit():
            self.fault("id_no", f"is {self.data['id_no']!r}, not a number", "leave it out: id is enough")
        if not isinstance(value, str) or value.count("/") != 1:
            self.fault("id", "missing" if value is None else f"is {value!r}", form)
            return ""
        owner, slug = value.split("/")
        fits = len(slug) >= shortest and (longest is None or len(slug) <= longest)
        if not _NAME.fullmatch(owner) or not _OWN_SLUG.fullmatch(slug) or not fits:
            self.fault("id", f"is {value!r}", form)
            return ""
        self.owner_notice("id", owner)
        return slug

    def owner_notice(self, key: str, owner: str) -> None:
        if owner == PLACEHOLDER_OWNER:
            self.notices.append(
                f"{self.file}: {key} holds the placeholder owner {owner}; `histoseg submit` fills it in"
            )


# --- kernels ---------------------------------------------------------------------------------------------------------


def _kernel_report(data: Any) -> _Report:
    """All that can be said without looking at other files."""
    report = _Report(KERNEL_METADATA_NAME, data, _KERNEL_KEYS)
    if not isinstance(data, Mapping):
        return report
    slug = report.own_id(5, None)
    _check_title(report, slug)
    report.choice("language", ["python"])
    report.choice("kernel_type", list(_SUFFIXES.values()))
    report.choice("docker_image_pinning_type", ["original", "latest"], needed=False)
    if "docker_image" in data:
        report.text("docker_image", 1)
    _check_switches(report)
    _check_machine(report)
    _check_references(report, "dataset_sources", "owner/slug or owner/slug/version", (2, 3), 3)
    _check_references(report, "kernel_sources", "owner/slug or owner/slug/version", (2, 3), 5)
    _check_references(report, "model_sources", "owner/model/framework/variation/version", (5,), 1)
    for source in report.texts("competition_sources"):
        if not _NAME.fullmatch(source):
            report.fault("competition_sources", f"{source!r} is no plain slug", "write the slug alone, without c/")
    report.texts("keywords")
    return report


def _check_title(report: _Report, slug: str) -> None:
    title = report.text("title", 5)
    if title and not title.isascii():
        report.fault("title", f"{title!r} is not ASCII, so that its slug is uncertain", "use plain letters and digits")
    elif title and slug and slugify(title) != slug:
        rule = f"{title!r} gives the slug {slugify(title)!r} and id says {slug!r}: a new kernel would get the title's"
        report.fault("title", rule, f"use a title such as {slug.replace('-', ' ')!r}")


def _check_switches(report: _Report) -> None:
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


def _check_machine(report: _Report) -> None:
    shape = report.data.get("machine_shape")
    if shape in RETIRED_SHAPES:
        remedy = f"use {MACHINE_SHAPES[0]} (two T4)"
        report.fault("machine_shape", f"{shape} is retired: another machine would run the kernel", remedy)
        return
    report.choice("machine_shape", MACHINE_SHAPES)
    if shape in TPU_SHAPES:
        report.notices.append(f"{report.file}: {shape} has no GPU; the kernel would run on its processor")


def _check_references(report: _Report, key: str, form: str, lengths: tuple[int, ...], shortest_slug: int) -> None:
    """Sources named owner/slug, with a version as the last of the longest form."""
    for source in report.texts(key):
        parts = source.split("/")
        versioned = len(parts) == max(lengths)
        names = parts[:-1] if versioned else parts
        fits = len(parts) in lengths and all(_NAME.fullmatch(name) for name in names) and len(parts[1]) >= shortest_slug
        if not fits or (versioned and not parts[-1].isdigit()):
            report.fault(key, f"{source!r} is no {form}", f"write {form}")
        else:
            report.owner_notice(key, parts[0])


def _check_code_file(report: _Report, data: Mapping[str, Any], folder: Path) -> None:
    name = report.text("code_file", 1)
    if not name:
        return
    path = folder / name
    kind = _SUFFIXES.get(path.suffix)
    if Path(name).is_absolute() or ".." in Path(name).parts:
        report.fault("code_file", f"{name!r} lies outside the kernel's folder", "put it beside the metadata")
    elif not path.is_file():
        report.fault("code_file", f"there is no file {name}", "write it: `histoseg kernel C`")
    elif kind is None or (data.get("kernel_type") in _SUFFIXES.values() and kind != data["kernel_type"]):
        rule = f"{name!r} does not fit the kernel_type {data.get('kernel_type')!r}"
        report.fault("code_file", rule, "use .py for a script and .ipynb for a notebook")
    else:
        _check_code(report, path, kind)


def _check_code(report: _Report, path: Path, kind: str) -> None:
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
        report.fault("code_file", f"{path.name} is no readable {kind}", "write it anew: `histoseg kernel C`")


# --- datasets --------------------------------------------------------------------------------------------------------


def _dataset_report(data: Any) -> _Report:
    """All that can be said without looking at the folder."""
    report = _Report(DATASET_METADATA_NAME, data, _DATASET_KEYS)
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


def _check_licence(report: _Report) -> None:
    value = report.data.get("licenses")
    form = 'write exactly one, as [{"name": "CC-BY-4.0"}]'
    if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], Mapping):
        report.fault("licenses", "missing" if value is None else f"is {value!r}", form)
    elif value[0].get("name") not in LICENCES:
        rule = f"{value[0].get('name')!r} is no licence that Kaggle knows"
        report.fault("licenses", rule, f"use `other` and describe it, or one of: {', '.join(LICENCES)}")


def _check_resources(report: _Report, resources: Any, folder: Path) -> None:
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


def _check_flat(report: _Report, folder: Path) -> None:
    """Kaggle leaves sub-folders out without a word, and refuses a dataset without files."""
    if not folder.is_dir():
        report.fault(str(folder.name), "no such folder", "check the path")
        return
    entries = sorted(folder.iterdir())
    for entry in entries:
        if entry.is_dir():
            rule = "a sub-folder, which an upload leaves out without a word"
            report.fault(entry.name, rule, "keep the dataset flat: move its files up or remove it")
    if not any(entry.is_file() and entry.name != DATASET_METADATA_NAME for entry in entries):
        report.fault("files", "the folder holds no file to upload", "fill it: `histoseg package`")
