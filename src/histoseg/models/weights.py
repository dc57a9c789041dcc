"""Pretrained encoder weights: from the hub, or from a file."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from histoseg.core.faults import Fault, InputError
from histoseg.core.log import logger
from histoseg.schema.experiment import ModelConfig

CLASSIFIER_PREFIXES = ("fc.", "classifier.", "head.", "last_linear.", "_fc.")
ENCODER_PREFIXES = ("module.", "encoder.", "backbone.", "model.")


def load_encoder_weights(model: torch.nn.Module, config: ModelConfig) -> None:
    """Load pretrained weights into a network's encoder, in place.

    Args:
        model: A network with an `encoder`.
        config: `encoder_weights` is `none`, a name on the hub, or `file:PATH` of a state dict
            (.safetensors, .pt, .pth).

    Raises:
        InputError: If the file is missing or does not fit, or the hub's weights cannot be had.
    """
    source = config.encoder_weights
    if source == "none":
        return
    encoder = model.encoder
    assert isinstance(encoder, torch.nn.Module)
    state = _read_state(Path(source[5:])) if source.startswith("file:") else _hub_state(config)
    wanted = encoder.state_dict()
    tensors = {_bare_name(name, wanted): tensor for name, tensor in state.items()}
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(CLASSIFIER_PREFIXES)}
    faults = [
        Fault(
            name,
            source,
            "the encoder needs this tensor and the weights lack it or its shape differs",
            f"use weights of {config.encoder}",
        )
        for name, tensor in wanted.items()
        if not name.endswith("num_batches_tracked") and (name not in tensors or tensors[name].shape != tensor.shape)
    ]
    if faults:
        raise InputError(faults[:20])
    encoder.load_state_dict({**wanted, **{name: tensors[name] for name in wanted if name in tensors}})
    logger.info("encoder weights: %d tensors of %s", len(wanted), source)


def _bare_name(name: str, wanted: dict[str, torch.Tensor]) -> str:
    """A tensor's name without the wrappers that training scripts put before it."""
    while name not in wanted:
        prefix = next((p for p in ENCODER_PREFIXES if name.startswith(p)), None)
        if prefix is None:
            return name
        name = name[len(prefix) :]
    return name


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise InputError([Fault("model.encoder_weights", str(path), "no such file", "check the path after `file:`")])
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        rule = f"not a state dict ({type(error).__name__})"
        raise InputError([Fault("model.encoder_weights", str(path), rule, "save model.state_dict()")]) from error
    for key in ("state_dict", "model"):
        if isinstance(state.get(key), dict):
            state = state[key]
    return state


def _hub_state(config: ModelConfig) -> dict[str, torch.Tensor]:
    import segmentation_models_pytorch as smp

    try:
        encoder = smp.encoders.get_encoder(config.encoder, weights=config.encoder_weights)
    except Exception as error:
        rule = f"weights {config.encoder_weights!r} of {config.encoder} cannot be had ({type(error).__name__}: {error})"
        remedy = "check name and network, or download the file and write `file:PATH`"
        raise InputError([Fault("model.encoder_weights", "experiment", rule, remedy)]) from error
    return encoder.state_dict()
