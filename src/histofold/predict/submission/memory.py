"""The ladder for memory that does not suffice: smaller batches, one member at a time, smaller tiles, then the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from histofold.schema.manifest import Manifest

SMALLEST_TILE = 256


@dataclass(frozen=True)
class MemoryRung:
    """One way to need less memory."""

    halved_batch: int = 0
    """How often batches are halved."""
    in_turn: bool = False
    """Whether members are loaded one at a time."""
    halved_tile: int = 0
    """How often tiles are halved."""
    on_cpu: bool = False
    """Whether the CPU takes over."""

    def apply(self, manifest: Manifest) -> Manifest:
        """The manifest with smaller batches and tiles; tiles of whole images stay what they are."""
        manifest = replace(manifest, batch=max(1, manifest.batch >> self.halved_batch))
        for _ in range(self.halved_tile):
            manifest = halved_tile(manifest) or manifest
        return manifest

    def __str__(self) -> str:
        """In words."""
        words = [f"batches {2**self.halved_batch} times smaller"] if self.halved_batch else []
        words += ["one member at a time"] if self.in_turn else []
        words += [f"tiles {2**self.halved_tile} times smaller"] if self.halved_tile else []
        words += ["on the CPU"] if self.on_cpu else []
        return ", ".join(words) or "as the manifest says"


def halved_tile(manifest: Manifest) -> Manifest | None:
    """The manifest with tiles half as large; None where they would be below 256 pixels or four halos."""
    if manifest.preprocessing.scale_mode == "whole" or manifest.tile // 2 < max(SMALLEST_TILE, 4 * manifest.halo):
        return None
    return replace(manifest, tile=manifest.tile // 64 * 32, stride=0)


def memory_rungs(manifests: Sequence[Manifest], members: int, on_gpu: bool) -> Iterator[MemoryRung]:
    """From the manifests as they are down to the least that can be done, for all stages of an ensemble at once."""
    rung = MemoryRung()
    yield rung
    while any(manifest.batch >> rung.halved_batch > 1 for manifest in manifests):
        rung = replace(rung, halved_batch=rung.halved_batch + 1)
        yield rung
    if members > 1:
        rung = replace(rung, in_turn=True)
        yield rung
    while any(halved_tile(rung.apply(manifest)) is not None for manifest in manifests):
        rung = replace(rung, halved_tile=rung.halved_tile + 1)
        yield rung
    if on_gpu:
        yield replace(rung, on_cpu=True)
