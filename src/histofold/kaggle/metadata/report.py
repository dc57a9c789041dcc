"""Metadata files of Kaggle: reading one, filling in its owner, and what both kinds of file are asked."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from histofold.core.faults import Fault, InputError

PLACEHOLDER_OWNER = "your-kaggle-name"
NAME_FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_OWN_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def read_metadata(path: Path) -> dict[str, Any]:
    """A metadata file as an object whose keys stand there once.

    Raises:
        InputError: If it is missing, not JSON, no object, or names a key twice.
    """
    twice: list[str] = []

    def noted(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice.extend(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        return dict(pairs)

    try:
        data = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=noted)
    except FileNotFoundError as error:
        raise InputError([Fault(path.stem, str(path), "no such file", "check the path")]) from error
    except (ValueError, RecursionError) as error:
        raise InputError([Fault(path.stem, str(path), f"not JSON ({error})", "write it anew")]) from error
    if not isinstance(data, dict):
        raise InputError([Fault(path.stem, str(path), "not an object", "write an object of keys")])
    if twice:
        rule = "stands there twice, and only the last one would count"
        raise InputError([Fault(key, str(path), rule, "write it once") for key in sorted(set(twice))])
    return data


def read_checked(
    path: Path, check: Callable[[Any, Path], tuple[list[Fault], list[str]]]
) -> tuple[dict[str, Any], list[str]]:
    """A metadata file and the notices of a check of it and of its folder.

    Raises:
        InputError: With all faults of the file and of what lies beside it.
    """
    data = read_metadata(path)
    faults, notices = check(data, path.parent)
    if faults:
        raise InputError(faults)
    return data, notices


def with_owner(data: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Metadata with an account's name wherever the placeholder stands as an owner."""

    def filled(value: Any) -> Any:
        if isinstance(value, list):
            return [filled(item) for item in value]
        is_ours = isinstance(value, str) and value.startswith(PLACEHOLDER_OWNER + "/")
        return owner + value.removeprefix(PLACEHOLDER_OWNER) if is_ours else value

    owned = ("id", "dataset_sources", "kernel_sources", "model_sources")
    return {key: filled(value) if key in owned else value for key, value in data.items()}


class MetadataReport:
    """What was found in one metadata file."""

    file: str
    """Name of the file."""
    data: Mapping[str, Any]
    """What it holds; empty where that is no object."""
    faults: list[Fault]
    """What must be mended."""
    notices: list[str]
    """What is lawful but worth a look."""

    def __init__(self, file: str, data: Any, known: Sequence[str]) -> None:
        self.file, self.faults, self.notices = file, [], []
        self.data = data if isinstance(data, Mapping) else {}
        if not isinstance(data, Mapping):
            remedy = "write it anew: `histofold kernel|package`"
            self.fault(file, f"holds a {type(data).__name__}, not an object", remedy)
        for key in self.data:
            if key not in known:
                self.fault(str(key), "an unknown key, which Kaggle ignores", f"known ones: {', '.join(known)}")

    def fault(self, key: str, rule: str, remedy: str) -> None:
        """Note a fault of the value under a key."""
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
        if not NAME_FORM.fullmatch(owner) or not _OWN_SLUG.fullmatch(slug) or not fits:
            self.fault("id", f"is {value!r}", form)
            return ""
        self.owner_notice("id", owner)
        return slug

    def owner_notice(self, key: str, owner: str) -> None:
        """Note that an owner is still the placeholder, if it is."""
        if owner == PLACEHOLDER_OWNER:
            self.notices.append(
                f"{self.file}: {key} holds the placeholder owner {owner}; put your Kaggle name there before you push"
            )
