"""Which layer may import which: read from the sources, so that an import inside a function counts too."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import histofold
from histofold.kaggle.bundle.bundler import closure

ROOT = Path(histofold.__file__).parent
# An arrow = may import, and with it all that the arrow's end may import. Nothing else.
ARROWS = {
    "core": (),
    "schema": ("core",),
    "imaging": ("schema",),
    "competitions": ("imaging",),
    "models": ("schema",),
    "synth": ("competitions",),
    "data": ("competitions",),
    "predict": ("models", "competitions"),
    "train": ("data", "predict"),
    "trust": ("data", "predict"),
    "report": ("trust", "predict"),
    "kernels": ("predict", "competitions"),
    "kaggle": ("kernels", "schema"),
}
ARROWS["commands"] = tuple(ARROWS)
KERNEL_LAYERS = {"core", "schema", "imaging", "competitions", "models", "predict"}
KERNELS = ("hubmap_2022", "kidney_2020", "sennet_2024", "vasculature_2023", "vrdl_nuclei")


def allowed_layers(layer: str) -> set[str]:
    """A layer, and all that can be reached from it along arrows."""
    return {layer}.union(*(allowed_layers(target) for target in ARROWS[layer]))


def internal_imports(source: str) -> Iterator[tuple[int, str]]:
    """Line and target of every import of the package; of one that is not `from histofold.x import name`, its text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level or module == "histofold":
                yield node.lineno, ast.unparse(node)
            elif module.startswith("histofold."):
                yield node.lineno, module
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "histofold" or alias.name.startswith("histofold."):
                    yield node.lineno, alias.name


def forbidden_arrows(layer: str, source: str) -> list[str]:
    """The imports of a module that its layer may not have, as line and target."""
    allowed = {f"histofold.{name}" for name in allowed_layers(layer)}
    # The package's folder and version belong to no layer; a kernel has neither.
    whole = set() if layer in KERNEL_LAYERS | {"kernels"} else {"histofold", "from histofold import __version__"}
    imports = [(line, target, ".".join(target.split(".")[:2])) for line, target in internal_imports(source)]
    return [f"{line}: {target}" for line, target, home in imports if target not in whole and home not in allowed]


MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_along_the_arrows(module: str) -> None:
    source = (ROOT / module).read_text(encoding="utf-8")
    if "/" not in module:
        return  # the package itself stands above all layers
    layer = module.split("/")[0]
    assert layer in ARROWS, f"{layer} is no layer: add it to the table and to the design"
    arrows = forbidden_arrows(layer, source)
    assert arrows == [], f"{module} ({layer}) may import from {', '.join(sorted(allowed_layers(layer)))} only"


def test_the_table_says_what_the_design_says() -> None:
    assert allowed_layers("core") == {"core"}
    assert allowed_layers("predict") == {"predict", "models", "competitions", "imaging", "schema", "core"}
    assert allowed_layers("data") == {"data", "competitions", "imaging", "schema", "core"}
    assert allowed_layers("kernels") == KERNEL_LAYERS | {"kernels"}
    assert allowed_layers("commands") == set(ARROWS)
    assert not {"train", "trust", "report", "commands", "synth"} & allowed_layers("kaggle")


@pytest.mark.parametrize(
    ("layer", "source", "arrows"),
    [
        ("core", "import numpy\nfrom histofold.core.log import logger\n", []),
        ("core", "from histofold.schema.sample import Sample\n", ["1: histofold.schema.sample"]),
        ("predict", "def f():\n    from histofold.data.folds import x\n", ["2: histofold.data.folds"]),
        ("predict", "if TYPE_CHECKING:\n    import histofold.data.folds\n", ["2: histofold.data.folds"]),
        ("data", "import json, histofold.train.loop as loop\n", ["1: histofold.train.loop"]),
        ("train", "from histofold.data.folds import x; from histofold.core.rle.runs import y\n", []),
        ("train", "from ..data import folds\n", ["1: from ..data import folds"]),
        ("train", "from histofold import data\n", ["1: from histofold import data"]),
        ("train", "import histofold\nfrom histofold import __version__\n", []),
        ("core", "import histofold\n", ["1: histofold"]),
        ("core", "TEXT = 'from histofold.train.loop import x'\nimport histofoldment\n", []),
    ],
)
def test_a_forbidden_arrow_is_seen(layer: str, source: str, arrows: list[str]) -> None:
    assert forbidden_arrows(layer, source) == arrows


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_needs_the_kernel_layers_and_no_more(kernel: str) -> None:
    if not (ROOT / "kernels" / f"{kernel}.py").is_file():
        pytest.skip(f"the kernel {kernel} is not written yet")
    modules = closure(f"histofold.kernels.{kernel}", ROOT)
    layers = {module.name.split(".")[1] for module in modules}
    assert layers <= KERNEL_LAYERS | {"kernels"}
    assert modules[-1].name == f"histofold.kernels.{kernel}"
    baselines = ("histofold.models.sam", "histofold.predict.prompts")
    assert not [module.name for module in modules if module.name.startswith(baselines)], "a baseline is no part of it"


def test_the_command_line_starts_without_torch() -> None:
    if importlib.util.find_spec("histofold.commands.main") is None:
        pytest.skip("histofold.commands.main is not written yet")
    code = "import sys, histofold.commands.main; print(sorted({'torch', 'timm', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
