"""Strict parsing of plain data (TOML, JSON) into frozen dataclasses, with the standard library alone.

Unknown keys, wrong types and values out of range are collected, so that the user sees all of them at once.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from histofold.core.faults import Fault, InputError
from histofold.schema.files import write_atomically

Parsed = TypeVar("Parsed")


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file as plain data.

    Raises:
        InputError: If the file is missing or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError([Fault(path.stem, str(path), f"{error.strerror}", "check the path")]) from error
    except UnicodeDecodeError as error:
        raise InputError([Fault(path.stem, str(path), f"not a TOML file ({error})", "save it as UTF-8")]) from error
    except (ValueError, RecursionError) as error:  # of numbers of thousands of digits, of endless brackets too
        remedy = "write / in paths, or the text in '...'" if "Unescaped '\\'" in str(error) else "mend that line"
        raise InputError([Fault(path.stem, str(path), f"not a TOML file ({error})", remedy)]) from error


def load_toml(cls: type[Parsed], path: Path) -> Parsed:
    """Read a TOML file into a dataclass; keys that are left out keep their defaults.

    Raises:
        InputError: If the file is missing, is not TOML, or does not fit; with all faults.
    """
    return parse_dataclass(cls, read_toml(path), str(path))


def load_json(cls: type[Parsed], path: Path, remedy: str = "write it anew") -> Parsed:
    """Read a JSON file into a dataclass.

    Raises:
        InputError: As `load_toml`.
    """
    return parse_dataclass(cls, read_json(path, remedy), str(path))


def load_own_json(cls: type[Parsed], path: Path, remedy: str) -> Parsed:
    """As `load_json`, of a file that nobody is to mend by hand: the remedy is the same whatever is wrong in it."""
    try:
        return load_json(cls, path, remedy)
    except InputError as error:
        raise InputError([dataclasses.replace(fault, remedy=remedy) for fault in error.faults]) from error


def read_json(path: Path, remedy: str) -> Any:
    """Read a JSON file as plain data.

    Raises:
        InputError: If the file is missing, cut short or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError([Fault(path.stem, str(path), f"{error.strerror}", "check the path")]) from error
    except (ValueError, RecursionError) as error:
        rule = f"not a JSON file ({error})"
        raise InputError([Fault(path.stem, str(path), rule, remedy)]) from error


def kept_json(path: Path) -> dict[str, Any]:
    """The object of a file of results that can be had again; empty where it is missing, cut short or no object."""
    try:
        data = read_json(path, "")
    except InputError:
        return {}
    return data if isinstance(data, dict) else {}


RETIRED_SETTINGS = {"smooth_um": "smoothing by discs gained nothing out-of-fold and is gone: leave it out"}
"""Settings that are no more, and why; a value that switches one off is read over."""


def write_json(path: Path, value: Any) -> None:
    """Write a dataclass or plain data as indented JSON, whole or not at all; `load_json` reads it back."""
    write_atomically(path, json.dumps(plain(value), indent=2) + "\n")


def parse_dataclass(cls: type[Parsed], data: Any, source: str) -> Parsed:
    """Build a dataclass from plain data, strictly.

    Args:
        cls: A dataclass whose fields are int, float, str, bool, Literal, tuple, dict, optional or dataclasses.
        data: What a TOML or JSON parser returned.
        source: Name of the file, for the messages.

    Raises:
        InputError: With one fault for each unknown key, missing key, wrong type or refused value.
    """
    faults: list[Fault] = []
    value = _parse_fields(cls, data, "", source, faults)
    if faults:
        raise InputError(faults)
    return value


def _parse_fields(cls: Any, data: Any, prefix: str, source: str, faults: list[Fault]) -> Any:
    if not isinstance(data, dict):
        faults.append(Fault(prefix or "(root)", source, f"expected a table, got {data!r}", "write a table of keys"))
        return None
    hints = typing.get_type_hints(cls)
    known = {field.name: field for field in dataclasses.fields(cls) if field.init}
    before = len(faults)
    for key in data.keys() - known.keys():
        if key in RETIRED_SETTINGS and not data[key]:  # files of earlier versions name it, switched off
            continue
        remedy = f"known keys here: {', '.join(sorted(known))}"
        faults.append(Fault(f"{prefix}{key}", source, RETIRED_SETTINGS.get(key, "unknown key"), remedy))
    values = {}
    for name, field in known.items():
        if name in data:
            values[name] = _parse_value(hints[name], data[name], f"{prefix}{name}", source, faults)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            faults.append(Fault(f"{prefix}{name}", source, "missing key", "add it"))
    if len(faults) > before:
        return None
    try:
        return cls(**values)
    except ValueError as error:
        faults.append(Fault(prefix.rstrip(".") or "(root)", source, str(error), "change the value"))
        return None


def _parse_value(hint: Any, value: Any, key: str, source: str, faults: list[Fault]) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _parse_fields(hint, value, f"{key}.", source, faults)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _parse_value(next(a for a in arguments if a is not type(None)), value, key, source, faults)
    if origin is tuple and isinstance(value, (list, tuple)):
        return _parse_tuple(arguments, value, key, source, faults)
    if origin is dict and isinstance(value, dict):
        return {str(k): _parse_value(arguments[1], v, f"{key}.{k}", source, faults) for k, v in value.items()}
    if origin is typing.Literal:
        if value in arguments:
            return value
        choices = ", ".join(repr(a) for a in arguments)
        faults.append(Fault(key, source, f"{value!r} is not a choice", f"choose one of {choices}"))
        return None
    if hint is Any or (isinstance(hint, type) and _fits_scalar(hint, value)):
        return float(value) if hint is float else value
    wanted = "a list, [...]" if origin is tuple else getattr(hint, "__name__", str(hint))
    faults.append(Fault(key, source, f"{value!r} is {type(value).__name__}", f"write {wanted}"))
    return None


def _fits_scalar(hint: type, value: Any) -> bool:
    """Whether a scalar is of the type; an int serves as a float, a bool never as a number, NaN never."""
    if hint is float:
        if isinstance(value, int) and not isinstance(value, bool):
            return abs(value) <= sys.float_info.max
        return isinstance(value, float) and not math.isnan(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _parse_tuple(arguments: Any, values: Any, key: str, source: str, faults: list[Fault]) -> Any:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_parse_value(arguments[0], v, f"{key}[{i}]", source, faults) for i, v in enumerate(values))
    if len(values) != len(arguments):
        faults.append(Fault(key, source, f"{len(values)} values", f"write {len(arguments)}"))
        return None
    pairs = zip(arguments, values, strict=True)
    return tuple(_parse_value(a, v, f"{key}[{i}]", source, faults) for i, (a, v) in enumerate(pairs))


def plain(value: Any) -> Any:
    """A dataclass as plain data (dicts, lists, scalars), ready for TOML or JSON; the inverse of `parse_dataclass`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def to_toml(value: Any) -> str:
    """Write a dataclass as TOML that `load_toml` reads back to an equal value; None is left out.

    A tuple of dataclasses becomes an array of tables; their fields must be scalars or tuples of scalars.
    """
    lines: list[str] = []

    def write_table(name: str, table: dict[str, Any]) -> None:
        nested = {k: v for k, v in table.items() if isinstance(v, dict) or _is_table_array(v)}
        scalars = {k: v for k, v in table.items() if k not in nested and v is not None}
        if name and (scalars or not table):
            lines.extend(["", f"[{name}]"])
        write_scalars(scalars)
        for key, item in nested.items():
            path = f"{name}.{_toml_key(key)}" if name else _toml_key(key)
            if isinstance(item, dict):
                write_table(path, item)
                continue
            for row in item:
                lines.extend(["", f"[[{path}]]"])
                write_scalars(row)

    def write_scalars(scalars: dict[str, Any]) -> None:
        lines.extend(f"{_toml_key(k)} = {json.dumps(v, ensure_ascii=False)}" for k, v in scalars.items())

    write_table("", plain(value))
    return "\n".join(lines).lstrip("\n") + "\n"


def _is_table_array(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _toml_key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else json.dumps(key)
