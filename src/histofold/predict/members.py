"""From weight folders to networks: every member loaded, fitted, and proved to be one of its own."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from histofold.core.faults import Fault, InputError, listed_ids
from histofold.core.log import logger
from histofold.models.build import broken_tensors, build_model
from histofold.models.folding import PROBE_SIDE, probe_noise, ready_to_predict
from histofold.predict.devices import all_devices, best_precision, free_bytes, is_out_of_memory
from histofold.predict.stages import Models, Networks, Stage, build_stages
from histofold.schema.manifest import Manifest, Member

MEMORY_SHARE = 0.5  # of a device's free memory that weights may fill; the forward passes need the rest
SAME_OUTPUT = 1e-6  # members whose outputs differ by less, relative to the largest, are one checkpoint twice
ONE_FOR_ALL = ("average", "min_area_um2", "max_hole_um2", "seed_threshold")  # settings of all members


Builder = Callable[[str, Mapping[str, Any]], torch.nn.Module]
"""Builds a network from its architecture and arguments, as `build_model` does."""


@dataclass(frozen=True)
class MemberFile:
    """A member and where its weights lie."""

    folder: Path
    """The package."""
    manifest: Manifest
    """Its manifest."""
    member: Member
    """The member."""
    build: Builder = build_model
    """What builds its network."""

    @property
    def path(self) -> Path:
        """Its safetensors file."""
        return self.folder / self.member.file

    @property
    def kind(self) -> str:
        """Names its architecture and arguments: members of one network differ in weights alone."""
        return json.dumps([self.member.architecture, self.member.arguments], sort_keys=True)

    def seen(self) -> Manifest:
        """How it sees images: the manifest without what says nothing of that, so that members can be compared."""
        preprocessing = self.member.preprocessing or self.manifest.preprocessing
        return replace(self.manifest, preprocessing=preprocessing, members=(), versions={}, thresholds={"default": 0.5})

    def network(self, into: torch.nn.Module | None = None) -> torch.nn.Module:
        """Its network as it was trained, on the CPU.

        Args:
            into: A module of the same network that takes the weights; None builds one.

        Raises:
            InputError: If the weights do not fit the network, or are no finite numbers.
        """
        model = into or self.build(self.member.architecture, self.member.arguments)
        try:
            state = load_file(self.path)
            model.load_state_dict(state)
        except Exception as error:  # safetensors has no type of its own for a broken file
            if is_out_of_memory(error):
                raise
            rule = f"weights do not fit {self.member.architecture} ({error})"
            raise InputError([Fault(self.member.file, str(self.folder), rule, "package the weights anew")]) from error
        broken = broken_tensors(state)
        if broken:
            rule = f"{len(broken)} tensors hold values that are no finite numbers ({listed_ids(broken, 3)})"
            raise InputError([Fault(self.member.file, str(self.folder), rule, "the training broke: train it anew")])
        return model

    def load(self, device: torch.device) -> torch.nn.Module:
        """Its network as it predicts on a device; see `network` for what is refused."""
        return self.ready(self.network(), device)

    def ready(self, network: torch.nn.Module, device: torch.device) -> torch.nn.Module:
        """The network that was loaded, as it predicts on a device."""
        return ready_to_predict(network, device, self.seen().preprocessing.slices)


class LoadedInTurn:
    """Members that are loaded when they are asked for, where memory does not hold all of them.

    A device holds one network at a time, and the CPU the one that it was made of, which takes the next weights where it
    is of one kind. Whoever asks holds the device's lock.

    Args:
        files: The members.
        device: Where to load.
    """

    def __init__(self, files: Sequence[MemberFile], device: torch.device) -> None:
        self._files = tuple(files)
        self._device = device
        self._held: MemberFile | None = None
        self._trained: torch.nn.Module | None = None
        self._model: torch.nn.Module | None = None

    def __len__(self) -> int:
        """Number of members."""
        return len(self._files)

    def __getitem__(self, place: int) -> torch.nn.Module:
        """A member's network."""
        file = self._files[place]
        if self._model is None or file != self._held:
            alike = self._held is not None and file.kind == self._held.kind
            trained = self._trained if alike else None
            self._model = self._trained = self._held = None  # a load that fails leaves nothing half-done
            self._trained = file.network(trained)
            self._model, self._held = file.ready(self._trained, self._device), file
        return self._model


def load_ensemble(
    packages: Sequence[tuple[Path, Manifest]],
    devices: Sequence[torch.device] = (),
    precision: torch.dtype | None = None,
    in_turn: bool | None = None,
    proven: bool = False,
    build: Builder = build_model,
) -> list[Stage]:
    """Load every member of every package and prove them distinct.

    Args:
        packages: Weight folders with their checked manifests.
        devices: Where to put the networks: all of them on each; none means every GPU, or the CPU.
        precision: Autocast dtype; None asks `best_precision`.
        in_turn: Load one member at a time, each time it is needed; None does so where memory would be short.
        proven: The members were loaded before and proved distinct; in turn, nothing is loaded now.
        build: What builds the networks.

    Returns:
        The stages of the ensemble: members of one package and preprocessing see images alike.

    Raises:
        InputError: If weights do not fit their network, or two members are the same.
    """
    devices = list(devices) or all_devices()
    files = [
        MemberFile(folder, manifest, member, build) for folder, manifest in packages for member in manifest.members
    ]
    refuse_same_bytes(files)
    _warn_of_what_is_dropped(packages)
    if in_turn is None:
        in_turn = _memory_is_short(files, devices)
    try:
        models = _load_models(files, devices, in_turn)
    except Exception as error:
        if in_turn or not is_out_of_memory(error):
            raise
        logger.warning("memory does not hold all %d members: they are loaded one by one, which is slower", len(files))
        in_turn = True
        models = _load_models(files, devices, in_turn)
    if not proven:
        refuse_equal_members(models[0], files, devices[0])
    networks = [
        Networks(on_device, device, precision or best_precision(device), in_turn)
        for device, on_device in zip(devices, models, strict=True)
    ]
    average = files[0].manifest.average  # what is averaged must be one thing for all
    return build_stages(networks, [(replace(file.seen(), average=average), file.member.weight) for file in files])


def _warn_of_what_is_dropped(packages: Sequence[tuple[Path, Manifest]]) -> None:
    """Of what an ensemble can have but once, the first package's counts."""
    first = packages[0][1]
    for folder, manifest in packages[1:]:
        names = [name for name in ONE_FOR_ALL if getattr(manifest, name) != getattr(first, name)]
        if names:
            logger.warning("%s has another %s than the first package, which counts", folder, " and ".join(names))


def _memory_is_short(files: Sequence[MemberFile], devices: Sequence[torch.device]) -> bool:
    size = sum(file.path.stat().st_size for file in files)
    room = MEMORY_SHARE * min(map(free_bytes, devices))
    if size <= room or len(files) == 1:
        return False
    words = "%d members of %.1f GB and room for %.1f GB: they are loaded one by one, which is slower"
    logger.warning(words, len(files), size / 1e9, room / 1e9)
    return True


def _load_models(files: Sequence[MemberFile], devices: Sequence[torch.device], in_turn: bool) -> list[Models]:
    """The members' networks on each device."""
    if in_turn:
        return [LoadedInTurn(files, device) for device in devices]
    first = [file.load(devices[0]) for file in files]
    others = [[copy.deepcopy(model).to(device) for model in first] for device in devices[1:]]
    return [first, *others]


def refuse_same_bytes(files: Sequence[MemberFile]) -> None:
    """Members of several packages must differ in their bytes, as those of one must.

    Raises:
        InputError: With every member that stands twice.
    """
    faults = []
    seen: dict[str, str] = {}
    for file in files:
        digest = file.member.sha256
        if digest in seen:
            rule = f"same bytes as {seen[digest]}: the ensemble would count one checkpoint twice"
            faults.append(Fault(file.member.file, str(file.folder), rule, "leave one of the packages out"))
        seen.setdefault(digest, str(file.path))
    if faults:
        raise InputError(faults)


def refuse_equal_members(models: Models, files: Sequence[MemberFile], device: torch.device) -> None:
    """Members must differ in what they say, not only in their bytes.

    Raises:
        InputError: Naming the first two that give the same output for a fixed noise.
    """
    if len(files) < 2:
        return
    outputs: list[torch.Tensor] = []
    for place, file in enumerate(files):
        output = _probed(models[place], device, file.seen().preprocessing.slices)
        for early, other in enumerate(outputs):
            largest = max(float(other.abs().max()), 1e-30)
            if output.shape == other.shape and float((output - other).abs().max()) <= SAME_OUTPUT * largest:
                rule = f"gives the same output as {files[early].member.file}"
                raise InputError([Fault(file.member.file, "manifest.json", rule, "package distinct folds")])
        outputs.append(output)


def _probed(model: torch.nn.Module, device: torch.device, channels: int) -> torch.Tensor:
    """What a network makes of noise; of a detector, which may find nothing there, some of all its weights."""
    with torch.inference_mode():
        output = model(probe_noise(channels, device))
        if not isinstance(output, torch.Tensor):
            output = torch.cat([part.flatten()[:PROBE_SIDE].float() for part in model.parameters()])
        return output.float().cpu()
