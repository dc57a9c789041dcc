"""A wheel made anew from an installed pure-Python distribution, so that a kernel without internet can import it.

Kaggle's image lacks segmentation-models-pytorch; its wheel travels beside the weights. It is built from the very files
that the weights were trained with, offline, and the same files give the same bytes on every machine.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import stat
import zipfile
from collections.abc import Container, Iterator, Mapping
from email.parser import Parser
from importlib.metadata import Distribution, PackageNotFoundError, PackagePath
from importlib.metadata import distribution as installed_distribution
from pathlib import Path, PurePosixPath

import histofold
from histofold.core.faults import Fault, InputError
from histofold.schema.files import write_bytes_atomically

# What an installer adds to the files of a wheel (PEP 376, 610, 627), and what is written anew.
_INSTALLER_FILES = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "RECORD.jws", "RECORD.p7s"})
_COMPILED = frozenset({".so", ".pyd", ".dll", ".dylib", ".a", ".o"})
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip file can hold
_OWN_SUFFIXES = (".py", ".j2")  # what this package consists of; compiled leftovers stay behind
_FILE_MODE = (stat.S_IFREG | 0o644) << 16


def build_wheel(distribution: str, folder: Path) -> Path:
    """Write the wheel of an installed pure-Python distribution.

    The entries are sorted, stored without compression (a compressed one would depend on the zlib at hand) and carry one
    fixed time.

    Returns:
        Path of the wheel, NAME-VERSION-TAG.whl.

    Raises:
        InputError: With every fault: not installed, an editable install, compiled files, files missing, changed since
            the installation or outside the import path.
    """
    found = _installed(distribution)
    contents, faults = _contents(found)
    tags, tag_faults = _tags(contents, found)
    faults += tag_faults
    if faults:
        raise InputError(faults)
    info = next(name for name in contents if name.endswith(".dist-info/METADATA")).removesuffix("/METADATA")
    return _write_wheel(folder / f"{_escaped(found.metadata['Name'])}-{found.version}-{tags}.whl", contents, info)


def build_own_wheel(folder: Path) -> Path:
    """Write the wheel of this very package from its folder, which may be a source tree that was installed with -e.

    The same files give the same bytes on every machine, whatever the installation says about them.
    """
    root = Path(histofold.__file__).parent
    kept = (path for path in sorted(root.rglob("*")) if path.is_file() and path.suffix in _OWN_SUFFIXES)
    contents = {path.relative_to(root.parent).as_posix(): path.read_bytes() for path in kept}
    info = f"histofold-{histofold.__version__}.dist-info"
    head = f"Metadata-Version: 2.1\nName: histofold\nVersion: {histofold.__version__}\n"
    contents[f"{info}/METADATA"] = head.encode()
    contents[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: histofold\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    contents[f"{info}/entry_points.txt"] = b"[console_scripts]\nhistofold = histofold.commands.main:main\n"
    return _write_wheel(folder / f"histofold-{histofold.__version__}-py3-none-any.whl", contents, info)


def _installed(name: str) -> Distribution:
    """The distribution, if its files are listed and its own.

    Raises:
        InputError: If it is not installed, lists no files or points to a source folder.
    """
    try:
        found = installed_distribution(name)
    except (PackageNotFoundError, ValueError) as error:
        fault = Fault(name, "site-packages", "no such distribution is installed", f"install it: pip install {name}")
        raise InputError([fault]) from error
    files = found.files or []
    if not any(file.name == "RECORD" for file in files):
        rule = "the installation lists no files (it has no RECORD)"
        raise InputError([Fault(name, "RECORD", rule, f"install it with pip: pip install {name}")])
    source = json.loads(found.read_text("direct_url.json") or "{}")
    if source.get("dir_info", {}).get("editable") or any(file.name.startswith("__editable__") for file in files):
        rule = "is installed as editable: its files are not in the installation"
        raise InputError([Fault(name, "direct_url.json", rule, "install it without -e")])
    return found


def _contents(found: Distribution) -> tuple[dict[str, bytes], list[Fault]]:
    """The files of the wheel by their names in it, and what is at fault with them."""
    contents: dict[str, bytes] = {}
    faults: list[Fault] = []
    name = found.metadata["Name"]
    scripts = {entry.name for entry in found.entry_points if entry.group in ("console_scripts", "gui_scripts")}
    for file in found.files or []:
        if _is_installers(file) or _is_script(file, scripts):
            continue
        faults += [Fault(name, str(file), rule, remedy) for rule, remedy in _file_faults(file)]
        path = Path(str(file.locate()))
        if path.is_file():
            contents[str(file)] = path.read_bytes()
            if file.hash is not None and _digest(contents[str(file)], file.hash.mode) != file.hash.value:
                remedy = f"install it anew: pip install --force-reinstall {name}"
                faults.append(Fault(name, str(file), "changed since it was installed", remedy))
    return contents, faults


def _is_installers(file: PackagePath) -> bool:
    in_info = len(file.parts) > 1 and file.parts[-2].endswith(".dist-info")
    return file.suffix == ".pyc" or "__pycache__" in file.parts or (in_info and file.name in _INSTALLER_FILES)


def _is_script(file: PackagePath, entry_points: Container[str]) -> bool:
    """Whether a file is the script of an entry point, which pip makes by itself."""
    return ".." in file.parts and file.parts[-2] in ("bin", "Scripts") and file.stem in entry_points


def _file_faults(file: PackagePath) -> Iterator[tuple[str, str]]:
    """Rule and remedy of each fault of one listed file."""
    if ".." in file.parts or PurePosixPath(file).is_absolute():
        yield "lies outside the import path", "only packages without data files elsewhere can travel so"
    if _COMPILED & set(file.suffixes):
        yield "is compiled for one kind of machine", "only pure-Python distributions can travel so"
    if not Path(str(file.locate())).is_file():
        yield "is listed but missing", "install the distribution anew"


def _tags(contents: Mapping[str, bytes], found: Distribution) -> tuple[str, list[Fault]]:
    """The compatibility tag of the wheel's name, from the WHEEL file; at fault if it is not pure Python."""
    name = found.metadata["Name"]
    files = [file for file in contents if file.endswith(".dist-info/WHEEL")]
    if len(files) != 1:
        return "", [Fault(name, "WHEEL", f"found {len(files)} WHEEL files, not one", "install it with pip")]
    header = Parser().parsestr(contents[files[0]].decode())
    tags = [tuple(tag.split("-")) for tag in header.get_all("Tag", [])]
    pure = header.get("Root-Is-Purelib", "").lower() == "true"
    if not pure or not tags or any(len(tag) != 3 or tag[1:] != ("none", "any") for tag in tags):
        rule = f"is not pure Python (tags: {', '.join(header.get_all('Tag', ['none']))})"
        return "", [Fault(name, files[0], rule, "only pure-Python distributions can travel so")]
    return f"{'.'.join(sorted({tag[0] for tag in tags}))}-none-any", []


def _record(contents: Mapping[str, bytes], own_name: str) -> bytes:
    """The RECORD: name, SHA-256 and size of every file, its own line without them."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for name in sorted(contents):
        writer.writerow((name, f"sha256={_digest(contents[name])}", len(contents[name])))
    writer.writerow((own_name, "", ""))
    return stream.getvalue().encode()


def _write_wheel(path: Path, contents: Mapping[str, bytes], info: str) -> Path:
    """Write the file; the metadata come last, as the format recommends, and RECORD after them."""
    record = f"{info}/RECORD"
    contents = {**contents, record: _record(contents, record)}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in sorted(contents, key=lambda name: (name.startswith(info), name == record, name)):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system = 3  # Unix, also where the wheel is built on Windows
            entry.external_attr = _FILE_MODE
            archive.writestr(entry, contents[name])
    write_bytes_atomically(path, stream.getvalue())
    return path


def _digest(content: bytes, algorithm: str = "sha256") -> str:
    """A hash as RECORD writes it: URL-safe base64 without padding."""
    return base64.urlsafe_b64encode(hashlib.new(algorithm, content).digest()).rstrip(b"=").decode()


def _escaped(name: str) -> str:
    """A distribution's name as the file name of a wheel writes it."""
    return re.sub(r"[-_.]+", "_", name).lower()
