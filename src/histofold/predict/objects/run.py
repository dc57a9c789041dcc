"""How a batch of tiles goes through the passes of a stage: all at once, or as a clock allows."""

from __future__ import annotations

from typing import Protocol

from histofold.predict.stages import Networks, Stage
from histofold.predict.tiled import Answer, PassesCall, TileBatch


class BatchRunner(Protocol):
    """Gives what `call` makes of a batch and the passes of a stage; None where all its tiles are blank."""

    def __call__(  # noqa: D102
        self, stage: Stage, networks: Networks, batch: TileBatch, call: PassesCall[Answer], /
    ) -> Answer | None: ...


def run_batch(stage: Stage, networks: Networks, batch: TileBatch, call: PassesCall[Answer]) -> Answer | None:
    """A batch through all passes of a stage, however long it takes."""
    return call(batch.images, stage.passes, stage.manifest) if batch.places else None
