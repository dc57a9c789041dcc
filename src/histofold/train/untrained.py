"""A fold of what is not trained: weights as they were published, laid down where `evaluate` looks for them."""

from __future__ import annotations

import os
from pathlib import Path

from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.models.sam.load import load_sam
from histofold.schema.files import write_atomically
from histofold.schema.parse import to_toml
from histofold.schema.run_record import RECORD_NAME, read_record
from histofold.train.checkpoint import NETWORK_FILES
from histofold.train.fold import FoldSetup
from histofold.train.run import record_fold

ONE_FILE = "1TB"
"""transformers cuts weights into files of so much."""


def take_as_it_is(setup: FoldSetup) -> None:
    """Write the weights of Segment Anything into a fold, in the layout of transformers, and run.json.

    No image is predicted: the scores of the record are 0, and `evaluate` says that nothing was trained. Folds share the
    file on disk where they can.

    Raises:
        InputError: If the weights are not those of Segment Anything, or volumes would be seen along an axis that has no
            truth to prompt with.
    """
    _refuse_other_axes(setup)
    setup.folder.mkdir(parents=True, exist_ok=True)
    if not any(_linked(twin, setup.folder) for twin in _twins(setup)):
        net = load_sam(Path(setup.experiment.model.encoder_weights.removeprefix("file:")))
        net.save_pretrained(setup.folder, max_shard_size=ONE_FILE)  # type: ignore[operator]
    write_atomically(setup.folder / "experiment.toml", to_toml(setup.experiment))
    scores = dict.fromkeys((sample.id for sample in setup.validation), 0.0)
    nothing = {"steps": 0, "seconds": 0.0, "dice": 0.0, "best_dice_optimistic": 0.0, "best_step": 0}
    record_fold(setup, **nothing, dice_by_id=scores, trained_on={})
    logger.info("fold %d: weights as they are, nothing is trained: `histofold evaluate` scores them", setup.fold)


def _refuse_other_axes(setup: FoldSetup) -> None:
    volume = setup.manifest.volume
    if volume is not None and setup.experiment.model.sam.prompts != "grid" and volume.axes != ("xy",):
        rule = f"the truth of slices prompts along xy alone, not along {', '.join(volume.axes)}"
        raise InputError([Fault("volume.axes", "experiment", rule, 'write ["xy"]')])


def _twins(setup: FoldSetup) -> list[Path]:
    """Finished folds of the run that have the same weights."""
    key = "weights of the first step"
    found = [path.parent for path in setup.folder.parent.glob(f"fold*/{RECORD_NAME}") if path.parent != setup.folder]
    return [twin for twin in sorted(found) if read_record(twin).inputs.get(key) == setup.inputs[key]]


def _linked(twin: Path, folder: Path) -> bool:
    """Lay down the files of a fold's network in another as links to the same bytes, where the disk can."""
    try:
        for name in NETWORK_FILES:
            (folder / name).unlink(missing_ok=True)
            os.link(twin / name, folder / name)
    except OSError:
        return False
    return True
