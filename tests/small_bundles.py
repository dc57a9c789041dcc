"""Small packages to bundle, and processes that run them and what became of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

NASTY = Path(__file__).parent / "kaggle" / "bundle" / "nasty"


def write_package(folder: Path, files: dict[str, str]) -> Path:
    """Write a package `bad`; its __init__ files are empty where none is given."""
    root = folder / "bad"
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        for parent in (path.parent, *path.parent.parents):
            if parent.is_relative_to(root):
                (parent / "__init__.py").touch()
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    return root


def run_python(arguments: list[str], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1", **variables}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def run_bundle(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a bundle with nothing but its own file: isolated, from a folder without the package."""
    folder.mkdir(exist_ok=True)
    (folder / "kernel.py").write_text(text, encoding="utf-8")
    return run_python(["-I", "-X", "utf8", "kernel.py"], folder)


def run_package(root: Path, entry: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return run_python(["-m", entry], folder, PYTHONPATH=str(root.parent))
