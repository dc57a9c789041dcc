"""The examples in docstrings of what people call themselves run as they stand."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

MODULES = (
    "core.metrics.instances",
    "core.metrics.glas",
    "core.metrics.masks",
    "core.objects.instances",
    "core.rle.runs",
    "core.tiles",
    "imaging.slide",
    "models.build",
    "synth.hubmap_2022.folder",
    "trust.intervals",
)


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_run(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    results = doctest.testmod(importlib.import_module(f"histofold.{module}"))
    assert results.attempted > 0
    assert results.failed == 0
