"""List what no command, kernel or recipe reaches: functions, classes, methods and constants of the package.

Names alone are compared, never types, so the list is careful: what shares its name with something reached counts as
reached. Tests and benchmarks do not count as users; what a benchmark alone uses is marked.

    python benchmarks/unreached.py
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src/histofold"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
PUBLIC = {
    "openimages_ap", "surface_dice", "SurfaceDice", "decode_rle_window", "grouped_interval", "load", "predict",
    "probabilities", "polygons", "aji", "panoptic_quality", "glas_object_scores", "encode_rle", "decode_rle", "dice",
    "read_all", "to_mask",
}  # fmt: skip
"""What people call themselves: promised in words, whoever uses it here."""
FOREIGN_BASES = {"ModelEmaV3", "Module", "Dataset", "Sampler", "HTMLParser", "Thread", "NodeVisitor", "NodeTransformer"}
"""Classes whose code calls methods of their children."""


def words(tree: ast.AST) -> set[str]:
    """All names that code may mean: names, attributes, keywords, and words of its short strings; no imports."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.keyword) and node.arg:
            found.add(node.arg)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value:
            found.update(re.findall(r"\b[A-Za-z_]\w*\b", node.value) if len(node.value) < 60 else ())
    return found


def parts(module: ast.Module, where: str) -> Iterator[tuple[str, str, set[str], str]]:
    """(place, name, names that it uses, class that it belongs to) of each definition; no name for loose code."""
    for node in module.body:
        if isinstance(node, ast.ClassDef):
            yield from class_parts(node, where)
        elif isinstance(node, FUNCTIONS):
            yield f"{where}:{node.lineno}", node.name, words(node), ""
        elif isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(name := assigned(node), str):
            yield f"{where}:{node.lineno}", "" if name.startswith("__") else name, words(node), ""
        elif not isinstance(node, ast.Expr | ast.Import | ast.ImportFrom):
            yield where, "", words(node), ""


def class_parts(node: ast.ClassDef, where: str) -> Iterator[tuple[str, str, set[str], str]]:
    """A class with what it needs whenever it is used, and its methods; those of a foreign base may be called by it."""
    called = [part for part in node.body if isinstance(part, FUNCTIONS) and not part.name.startswith("__")]
    others = [part for part in [*node.body, *node.bases, *node.decorator_list] if part not in called]
    yield f"{where}:{node.lineno}", node.name, set().union(*map(words, others)), ""
    foreign = any(isinstance(base, ast.Attribute) or ast.unparse(base) in FOREIGN_BASES for base in node.bases)
    for method in called:
        yield f"{where}:{method.lineno}", "" if foreign else method.name, words(method), node.name


def assigned(node: ast.Assign | ast.AnnAssign) -> str | None:
    """The one name that an assignment gives a value."""
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    return target.id if isinstance(target, ast.Name) else None


def main() -> None:
    found = [
        part
        for path in sorted(PACKAGE.rglob("*.py"))
        for part in parts(ast.parse(path.read_text()), str(path.relative_to(PACKAGE)))
    ]
    reached, known = {"main", "run", *PUBLIC}, -1
    while known != len(reached):
        known = len(reached)
        for _, name, used, owner in found:
            if (not name or name in reached) and (not owner or owner in reached):
                reached |= used
    benchmarks = set().union(*(words(ast.parse(path.read_text())) for path in ROOT.glob("benchmarks/*.py")))
    for where, name, _, owner in found:
        if name and (name not in reached or (owner and owner not in reached)):
            print(f"{where} {owner + '.' if owner else ''}{name}{' (benchmarks)' if name in benchmarks else ''}")


if __name__ == "__main__":
    main()
