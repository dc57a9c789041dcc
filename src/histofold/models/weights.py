"""Pretrained encoder weights: from the hub, or from a file.

Weights of others have licences of their own. SegFormer's on the hub, and files made from them, are under NVIDIA's
licence for non-commercial use.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.models.deeplab_torchvision import VOC_WEIGHTS, deeplab_hub_state
from histofold.models.match_weights import MatchedWeights, match_weights
from histofold.models.segformer import segformer_hub_name, segformer_hub_state
from histofold.schema.network import DEFAULT_ENCODERS, ModelConfig

MAX_FAULTS = 20
WEIGHTS_SETTING = "model.encoder_weights"


def load_encoder_weights(model: torch.nn.Module, config: ModelConfig) -> None:
    """Load pretrained weights into a network's encoder, in place; into the 21-class head too, where they hold it.

    A file may hold the encoder's tensors under any one prefix and in the layout of timm, torchvision, smp or
    transformers, bare or in nested dicts, beside heads, projections and a second copy; what is not the encoder's is
    left.

    Args:
        model: A network with an `encoder`, built as `config` says.
        config: `encoder_weights` is `none`, a name on the hub, or `file:PATH` of a state dict
            (.safetensors, .pt, .pth).

    Raises:
        InputError: If the file is missing or does not fit, or the hub's weights cannot be had.
    """
    source = config.encoder_weights
    if source == "none":
        return
    state = _read_state(Path(source.removeprefix("file:"))) if source.startswith("file:") else _hub_state(config)
    if config.architecture == "segformer":
        state = {segformer_hub_name(name): tensor for name, tensor in state.items()}
    wanted = _encoder(model).state_dict()
    matched = match_weights(state, wanted)
    faults = list(_tensor_faults(matched, wanted, config))
    if faults:
        raise InputError(faults[:MAX_FAULTS])
    _encoder(model).load_state_dict({**wanted, **matched.tensors})
    left = len(state) - len(matched.tensors)
    logger.info("encoder weights: %d tensors of %s, from %r; %d left", len(wanted), source, matched.prefix, left)
    if config.architecture == "deeplabv3_resnet101":
        _load_head(model, state)


def encoder_name(config: ModelConfig) -> str:
    """The encoder of a network, by the name that its library has for it."""
    if config.architecture in DEFAULT_ENCODERS:
        return config.encoder or DEFAULT_ENCODERS[config.architecture]
    if config.architecture == "unext50":
        return "resnext50_32x4d"
    if config.architecture == "deeplabv3_resnet101":
        return "resnet101"
    return config.architecture.replace("effunet", "efficientnet")


def _encoder(model: torch.nn.Module) -> torch.nn.Module:
    encoder = model.encoder
    assert isinstance(encoder, torch.nn.Module)
    return encoder


def _tensor_faults(matched: MatchedWeights, wanted: Mapping[str, torch.Tensor], config: ModelConfig) -> Iterator[Fault]:
    """What the encoder wants and the weights lack or have in another shape."""
    remedy = f"use weights of {encoder_name(config)}"
    first_conv = next((name for name, tensor in wanted.items() if tensor.ndim == 4), None)
    for name, tensor in wanted.items():
        found = matched.tensors.get(name)
        if (found is not None and found.shape == tensor.shape) or name.endswith("num_batches_tracked"):
            continue
        if found is None:
            rule = "the encoder needs this tensor and the weights lack it"
        elif name == first_conv and found.ndim == 4 and found.shape[1] != tensor.shape[1]:
            rule = f"these weights take images of {found.shape[1]} channels, the encoder of {tensor.shape[1]}"
        else:
            rule = f"the encoder needs the shape {tuple(tensor.shape)} and the weights have {tuple(found.shape)}"
        yield Fault(name, config.encoder_weights, rule, remedy)


def _load_head(model: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Load the 21-class head where the weights hold it whole; weights of an encoder alone, or another head, do not."""
    wanted = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("classifier.")}
    found = match_weights(state, wanted).tensors
    fits = all(name in found and found[name].shape == tensor.shape for name, tensor in wanted.items())
    if fits:
        model.load_state_dict({**model.state_dict(), **found})
    logger.info("head: %s", "that of the weights" if fits else "the weights have none of 21 classes, left as it is")


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file, those of nested dicts under dotted names."""
    if not path.is_file():
        raise InputError([Fault(WEIGHTS_SETTING, str(path), "no such file", "check the path after `file:`")])
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([Namespace]):  # self-supervised scripts save their arguments too
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # neither library has a type of its own for a broken file
        rule = f"not a state dict ({type(error).__name__})"
        raise InputError([Fault(WEIGHTS_SETTING, str(path), rule, "save model.state_dict()")]) from error
    state = dict(_tensors("", saved))
    if not state:
        raise InputError([Fault(WEIGHTS_SETTING, str(path), "holds no tensors by name", "save model.state_dict()")])
    return state


def _tensors(prefix: str, saved: Any) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(saved, torch.Tensor):
        yield prefix, saved
    elif isinstance(saved, Mapping):
        for name, value in saved.items():
            yield from _tensors(f"{prefix}.{name}" if prefix else str(name), value)


def _hub_state(config: ModelConfig) -> dict[str, torch.Tensor]:
    """Tensors of weights that have a name on the hub."""
    name = config.encoder_weights
    try:
        if config.architecture == "segformer":
            return segformer_hub_state(encoder_name(config), name)
        if config.architecture == "deeplabv3_resnet101":
            return deeplab_hub_state(name)
        import segmentation_models_pytorch as smp

        return smp.encoders.get_encoder(encoder_name(config), weights=name).state_dict()
    except Exception as error:  # each hub has errors of its own, and a missing network has many
        rule = f"weights {name!r} of {encoder_name(config)} cannot be had ({type(error).__name__}: {error})"
        known = f", {VOC_WEIGHTS}" if config.architecture == "deeplabv3_resnet101" else ""
        remedy = f"check name (imagenet{known}, ...) and network, or download the file and write `file:PATH`"
        raise InputError([Fault(WEIGHTS_SETTING, "experiment", rule, remedy)]) from error
