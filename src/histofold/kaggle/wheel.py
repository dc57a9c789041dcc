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
from collections.abc import Mapping
from email.parser import Parser
from importlib.metadata import Distribution, PackageNotFoundError
from importlib.metadata import distribution as installed_distribution
from pathlib import Path, PurePosixPath

import histofold
from histofold.core.faults import Fault, InputError
from histofold.schema.files import write_bytes_atomically

# What an installer adds to the files of a wheel (PEP 376, 610, 627), and what is written anew.
_INSTALLER_FILES = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "RECORD.jws", "RECORD.p7s"})
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
        InputError: Not installed, an editable install, not pure Python; or with every file that is missing, changed
            since the installation or outside the import path.
    """
    found = _installed(distribution)
    tag = _pure_tag(found)
    contents = _contents(found)
    info = next(name for name in contents if name.endswith(".dist-info/METADATA")).removesuffix("/METADATA")
    name = re.sub(r"[-_.]+", "_", found.metadata["Name"]).lower()
    return _write_wheel(folder / f"{name}-{found.version}-{tag}.whl", contents, info)


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
    """The distribution, if its files are listed and its own."""
    try:
        found = installed_distribution(name)
    except (PackageNotFoundError, ValueError) as error:
        fault = Fault(name, "site-packages", "no such distribution is installed", f"install it: pip install {name}")
        raise InputError([fault]) from error
    if not found.read_text("RECORD"):
        rule = "the installation lists no files (it has no RECORD)"
        raise InputError([Fault(name, "RECORD", rule, f"install it with pip: pip install {name}")])
    source = json.loads(found.read_text("direct_url.json") or "{}")
    if source.get("dir_info", {}).get("editable"):
        rule = "is installed as editable: its files are not in the installation"
        raise InputError([Fault(name, "direct_url.json", rule, "install it without -e")])
    return found


def _pure_tag(found: Distribution) -> str:
    """The compatibility tag of the wheel's name; only pure Python can travel."""
    header = Parser().parsestr(found.read_text("WHEEL") or "")
    tags = header.get_all("Tag", [])
    pythons = sorted({tag.removesuffix("-none-any") for tag in tags if tag.endswith("-none-any")})
    if header.get("Root-Is-Purelib", "").lower() != "true" or not tags or len(pythons) != len(tags):
        rule = f"is compiled for one kind of machine, not pure Python (tags: {', '.join(tags) or 'none'})"
        raise InputError([Fault(found.metadata["Name"], "WHEEL", rule, "only pure Python can travel so")])
    return f"{'.'.join(pythons)}-none-any"


def _contents(found: Distribution) -> dict[str, bytes]:
    """The files of the wheel by their names in it."""
    contents: dict[str, bytes] = {}
    faults: list[Fault] = []
    name = found.metadata["Name"]
    scripts = {entry.name for entry in found.entry_points}  # which pip makes by itself
    # Not `found.files`, which from Python 3.12 on leaves out what is missing.
    for listed, digest, _ in csv.reader((found.read_text("RECORD") or "").splitlines()):
        file, (algorithm, _, wanted) = PurePosixPath(listed), digest.partition("=")
        is_script = ".." in file.parts and file.parts[-2] in ("bin", "Scripts") and file.stem in scripts
        is_installers = file.name in _INSTALLER_FILES and file.parent.suffix == ".dist-info"
        if is_script or is_installers or file.suffix == ".pyc":
            continue
        path = Path(str(found.locate_file(listed)))
        content = path.read_bytes() if path.is_file() else b""
        if ".." in file.parts:
            rule = "lies outside the import path"
        elif not path.is_file():
            rule = "is listed but missing"
        elif digest and _digest(content, algorithm) != wanted:
            rule = "changed since it was installed"
        else:
            contents[listed] = content
            continue
        faults.append(Fault(name, listed, rule, f"install it anew: pip install --force-reinstall {name}"))
    if faults:
        raise InputError(faults)
    return contents


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
