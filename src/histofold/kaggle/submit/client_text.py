"""Texts of the Kaggle client: credentials struck out, and answers read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any

SECRET_VARIABLES = ("KAGGLE_KEY", "KAGGLE_API_TOKEN", "KAGGLE_API_V1_TOKEN", "KAGGLE_IAP_TOKEN")
TALKATIVE_VARIABLES = ("VERBOSE", "VERBOSE_OUTPUT")
"""They make the client print its requests with the headers that hold the credentials."""
_SECRET_FORMS = (
    re.compile(r"((?:Bearer|Basic)\s+)[^\s'\"]+", re.IGNORECASE),
    re.compile(
        r"(\"?(?:key|token|refresh_token|access_token)\"?\s*[:=]\s*\"?)(?!\[\d{8}-)[^\s\",}]{8,}", re.IGNORECASE
    ),
    re.compile(r"(://)[^\s/@]+(?=@)"),  # of a proxy
    re.compile(r"()KGAT_[A-Za-z0-9_-]+"),
)
_CODE_FORM = re.compile(r"\b([45]\d\d) (?:Client|Server) Error")
_PUSHED_FORM = re.compile(r"Kernel version (\d+) successfully pushed")
_STATUS_FORM = re.compile(r'has status "(?:KernelWorkerStatus\.)?(\w+)"')
_FAILURE_FORM = re.compile(r'Failure message: "(.*)"', re.DOTALL)
_OWNER_FORM = re.compile(r"^- username: (\S+)$", re.MULTILINE)


def client_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of the client's process: ours, without what makes it print credentials."""
    ours = os.environ if environment is None else environment
    return {key: value for key, value in ours.items() if key not in TALKATIVE_VARIABLES}


def without_secrets(text: str, environment: Mapping[str, str] | None = None) -> str:
    """A text with everything struck out that is, or looks like, a credential."""
    ours = os.environ if environment is None else environment
    for name in SECRET_VARIABLES:
        if len(ours.get(name, "")) > 3:
            text = text.replace(ours[name], "***")
    for form in _SECRET_FORMS:
        text = form.sub(r"\1***", text)
    return text


def read_code(text: str) -> int | None:
    """The HTTP status that an error message names; 403 and 404 also where it says so in words."""
    found = _CODE_FORM.search(text)
    if found:
        return int(found[1])
    if re.search(r"permission .{0,80}denied|forbidden", text, re.IGNORECASE):
        return 403
    return 404 if re.search(r"not found", text, re.IGNORECASE) else None


def read_owner(text: str) -> str:
    """The account that `config view` names; empty where it names none."""
    found = _OWNER_FORM.search(text)
    return "" if found is None or found[1] == "None" else found[1]


def read_pushed_version(text: str) -> int | None:
    """The version that `kernels push` tells; None where it tells none."""
    found = _PUSHED_FORM.search(text)
    return int(found[1]) if found else None


def read_kernel_status(text: str) -> tuple[str, str]:
    """Status (QUEUED, RUNNING, COMPLETE, ERROR, ...) and failure message of `kernels status`, or empty texts."""
    status, failure = _STATUS_FORM.search(text), _FAILURE_FORM.search(text)
    return status[1].upper() if status else "", failure[1].strip() if failure else ""


def read_json_answer(text: str) -> Any:
    """The JSON value among the lines of an answer, which warnings may stand before; None where there is none."""
    decoder = json.JSONDecoder()
    for found in re.finditer(r"^[\[{]", text, re.MULTILINE):
        try:
            return decoder.raw_decode(text, found.start())[0]
        except ValueError:
            continue
    return None


def read_log(text: str) -> str:
    """What a kernel printed, from its log as text or as Kaggle's JSON list, also one that was cut short."""
    if not text.lstrip().startswith("["):
        return text
    decoder, place, pieces = json.JSONDecoder(), text.index("[") + 1, []
    while True:
        start = text.find("{", place)
        if start < 0:
            break
        try:
            entry, place = decoder.raw_decode(text, start)
        except ValueError:
            break
        pieces.append(str(entry.get("data", "")))
    return "".join(pieces) or text
