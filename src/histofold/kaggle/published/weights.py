"""Published checkpoints of UneXt50 and EffUnet (.pth) as a weights folder that predicts like any other."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from histofold.competitions.registry import get_competition
from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.kaggle.published.settings import ImportSettings
from histofold.kaggle.weights_folder import check_target, write_package
from histofold.schema.manifest import Manifest, Member, file_sha256

if TYPE_CHECKING:
    import torch

NO_FOLD = -1
"""The fold of an imported member: none of ours."""
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "model.")


def import_package(
    files: Sequence[Path], settings: ImportSettings, out: Path, slug: str = "", licence: str = "other"
) -> Manifest:
    """Put published checkpoints into one weights folder, an ensemble of as many members as files.

    Args:
        files: State dicts (.pth, .pt), all of one architecture.
        settings: Architecture and how to predict.
        out: Where to write; files that an earlier package put there are replaced.
        slug: Name of the dataset on Kaggle.
        licence: Its licence, which is that of whoever published the weights.

    Raises:
        InputError: With the faults of the first file that cannot be read or does not fit, or of the settings; files of
            the same name or the same weights.
    """
    manifest = settings.manifest()
    get_competition(settings.competition)  # refuses one that no adapter could write a submission for
    check_target(out)
    if settings.pixel_size_um is None and settings.whole_size is None:
        size = manifest.preprocessing.target_pixel_size_um
        logger.warning("a file does not say at which scale it was trained: %g um assumed (--pixel-size-um)", size)
    logger.info("imported weights keep the licence under which they were published; the dataset says %r", licence)
    with tempfile.TemporaryDirectory() as name:
        converted = _convert_all(files, settings, Path(name))
        members = tuple(
            Member(
                file=path.name,
                sha256=digest,
                architecture=settings.architecture,
                arguments=settings.arguments(),
                fold=NO_FOLD,
            )
            for digest, path in converted.items()
        )
        sources = {path.name: path for path in converted.values()}
        return write_package(replace(manifest, members=members), sources, out, slug, licence)


def read_published_state(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .pth file, out of what training scripts wrap around them.

    Only tensors and plain containers are unpickled (`weights_only`): a file can run no code.

    Raises:
        InputError: If it is missing, holds anything else, or no tensors.
    """
    import torch

    if not file.is_file():
        raise InputError([Fault(file.stem, str(file), "no such file", "check the path after --import")])
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        rule = f"is no file of tensors alone ({type(error).__name__})"
        remedy = "load it where it was trained and save `model.state_dict()`"
        raise InputError([Fault(file.stem, str(file), rule, remedy)]) from error
    while isinstance(state, dict) and (wrapper := next((key for key in _WRAPPERS if key in state), None)):
        state = state[wrapper]
    if not isinstance(state, dict) or not state or not all(isinstance(t, torch.Tensor) for t in state.values()):
        rule = "holds no table of named tensors"
        raise InputError([Fault(file.stem, str(file), rule, "save `model.state_dict()`")])
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _convert_all(files: Sequence[Path], settings: ImportSettings, folder: Path) -> dict[str, Path]:
    """Our weights of each file, in `folder`, by their SHA-256."""
    import torch
    from safetensors.torch import save_file

    from histofold.kaggle.published.keys import to_our_state
    from histofold.models.build import build_model

    if not files:
        raise InputError([Fault("import", "command line", "no file given", "name at least one .pth file")])
    with torch.device("meta"):  # names and shapes are all that is wanted
        wanted = build_model(settings.architecture, settings.arguments()).state_dict()
    converted: dict[str, Path] = {}
    names: dict[str, Path] = {}
    for file in files:
        state = to_our_state(read_published_state(file), wanted, str(file), settings.architecture)
        target = folder / (re.sub(r"[^A-Za-z0-9_.-]+", "_", file.stem) + ".safetensors")
        if target.name in names:
            rule = f"its weights would get the name of those of {names[target.name]}"
            raise InputError([Fault(file.stem, str(file), rule, "rename one of the two")])
        names[target.name] = file
        save_file(state, target)
        digest = file_sha256(target)
        if digest in converted:
            rule = f"the same weights as {names[converted[digest].name]}"
            raise InputError([Fault(file.stem, str(file), rule, "an ensemble needs distinct ones: leave one out")])
        converted[digest] = target
    return converted
