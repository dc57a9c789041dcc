"""Weights of Segment Anything from local files: what transformers saved, or the file that its authors published.

Its code and weights are under Apache-2.0. Nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from histofold.core.faults import Fault, InputError
from histofold.models.sam.original import original_config, renamed_original
from histofold.models.weights import MAX_FAULTS, WEIGHTS_SETTING, read_state
from histofold.schema.parse import read_json

FAMILIES = {"sam": "SamModel", "sam2": "Sam2Model", "sam2_video": "Sam2Model"}
"""From a config's model_type to the class of transformers; of a network of videos the part that sees images."""


def load_sam(path: Path) -> torch.nn.Module:
    """A `SamModel` or `Sam2Model` of transformers in evaluation mode, on the CPU.

    Args:
        path: A folder of `save_pretrained`, or the published .pth of the first Segment Anything (sam_vit_h_4b8939.pth).

    Raises:
        InputError: If it cannot be read, holds another network, or any tensor is missing, left over or of another
            shape.
    """
    return (_load_folder(path) if path.is_dir() else _load_original(path)).eval()


def _load_folder(folder: Path) -> torch.nn.Module:
    import transformers

    kind = read_json(folder / "config.json", "give a folder that save_pretrained wrote").get("model_type")
    if kind not in FAMILIES:
        rule = f"holds a network of the type {kind!r}"
        raise InputError([Fault(WEIGHTS_SETTING, str(folder), rule, f"give one of {', '.join(FAMILIES)}")])
    cls = getattr(transformers, FAMILIES[kind], None)
    if cls is None:
        rule = f"the installed transformers {transformers.__version__} has no {FAMILIES[kind]}"
        raise InputError([Fault(WEIGHTS_SETTING, str(folder), rule, "pip install --requirement requirements.txt")])
    try:
        net, found = cls.from_pretrained(folder, local_files_only=True, output_loading_info=True, dtype=torch.float32)
    except Exception as error:  # transformers raises whatever its parts do
        rule, remedy = f"cannot be read ({type(error).__name__}: {error})", "copy the folder again"
        raise InputError([Fault(WEIGHTS_SETTING, str(folder), rule, remedy)]) from error
    wanted: torch.nn.Module = net
    _refuse_differences(folder, missing=found["missing_keys"], left_over=found["unexpected_keys"])
    return wanted


def _load_original(path: Path) -> torch.nn.Module:
    from transformers import SamConfig, SamModel

    state = read_state(path)
    net: torch.nn.Module = SamModel(SamConfig(**original_config(state, path)))
    wanted, given = net.state_dict(), renamed_original(state)
    shared = wanted.keys() & given.keys()
    wrong = [f"{name} {_shapes(given, wanted, name)}" for name in shared if given[name].shape != wanted[name].shape]
    _refuse_differences(path, missing=wanted.keys() - shared, left_over=given.keys() - shared, wrong=wrong)
    net.load_state_dict(given)
    return net


def _shapes(given: Mapping[str, Any], wanted: Mapping[str, Any], name: str) -> str:
    return f"has the shape {tuple(given[name].shape)} instead of {tuple(wanted[name].shape)}"


def _refuse_differences(
    path: Path, missing: Iterable[str], left_over: Iterable[str], wrong: Iterable[str] = ()
) -> None:
    """Refuse weights that are not the network's to the last tensor.

    Raises:
        InputError: With each tensor.
    """
    rules = {"is missing": missing, "is not of this network": left_over, "": wrong}
    named = [(name, rule) for rule, names in rules.items() for name in sorted(names)]
    if named:
        remedy = "take the whole file as it was published, of Segment Anything"
        faults = [Fault(name.split(" ")[0], str(path), rule or name.partition(" ")[2], remedy) for name, rule in named]
        raise InputError(faults[:MAX_FAULTS])
