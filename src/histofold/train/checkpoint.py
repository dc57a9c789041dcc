"""States of a run on disk: whole or not at all, the last two kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.schema.experiment import Experiment
from histofold.train.fingerprint import changed_settings


def state_paths(folder: Path) -> list[Path]:
    """The states of a fold, oldest first."""
    return sorted(folder.glob("state_*.pt"))


def save_state(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write a state atomically and drop all but the last two."""
    path = folder / f"state_{step:07d}.pt"
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    for old in state_paths(folder)[:-2]:
        old.unlink()
    return path


def newest_state(folder: Path) -> dict[str, Any] | None:
    """The newest state that can be read, whichever run it belongs to; None where there is none."""
    for path in reversed(state_paths(folder)):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            logger.warning("%s cannot be read (%s): taking the state before it", path, error)
    return None


def load_state(folder: Path, digest: str, experiment: Experiment) -> dict[str, Any] | None:
    """The newest state that can be read, None where there is none.

    Args:
        folder: runs/E/fold{k}, with the experiment.toml that the state was made with.
        digest: Of the run that wants it.
        experiment: Of the run that wants it.

    Raises:
        InputError: If it belongs to another experiment or dataset: resuming would mix two runs.
    """
    state = newest_state(folder)
    if state is not None:
        refuse_other_run(folder, state["digest"] == digest, experiment, "the state")
    return state


def refuse_other_run(folder: Path, is_same: bool, experiment: Experiment, what: str) -> None:
    """Refuse to go on with what another run has left, and say in which settings it differs.

    Args:
        folder: runs/E/fold{k}.
        is_same: Whether it is the same run after all.
        experiment: The experiment that would go on.
        what: What was left there, in words.

    Raises:
        InputError: If it is another run.
    """
    if is_same:
        return
    changed = changed_settings(folder / "experiment.toml", experiment)
    differs = f"was made with other settings: {'; '.join(changed)}" if changed else "is of other data or first weights"
    rule = f"{what} {differs}"
    raise InputError([Fault(folder.name, str(folder), rule, "undo the change, or train under another name")])


def save_weights(model: torch.nn.Module, path: Path) -> None:
    """Write a network's weights as safetensors, atomically, in plain memory order."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary)
    os.replace(temporary, path)
