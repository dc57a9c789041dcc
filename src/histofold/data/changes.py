"""What has changed since a dataset was built, or a fold trained: which images differ in what.

A digest of tiles alone does not see a mended mask or a replaced image: whoever trains or scores on a dataset compares
what lies in its folder now with what was there when it was built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from histofold.core.faults import Fault, InputError, listed_ids
from histofold.core.log import logger
from histofold.data.contents import Content, folder_listing, table_row, truth_digest
from histofold.data.sources import Source
from histofold.schema.manifest import file_sha256
from histofold.schema.sample import Sample

CHANGES = {
    "pixels": "other pixels",
    "mask": "other masks",
    "row": "other rows of the tables",
    "part": "other folds",
    "weights": "other first weights",
    "share": "other shares of the draws",
    "steps": "other steps",
}
"""What may differ between two trainings beside their settings, by the first word of a key of `fold_inputs`."""


def refuse_changed_data(sources: Sequence[Source]) -> None:
    """Refuse datasets whose images, masks or tables are no longer those that they were built from.

    Images that are new in a folder, or gone from it, are named in a warning: those are not trained on, these still are.

    Raises:
        InputError: With what has changed in each of them, and of which images.
    """
    faults = []
    for source in sources:
        contents = source.info.contents
        gone = sorted(contents.keys() - source.samples.keys())
        for words, ids in (("new and not trained on", source.without_tiles), ("gone; their tiles stay", gone)):
            if ids:
                logger.warning("%s: %d images are %s: %s", source.root, len(ids), words, listed_ids(ids))
        if not contents or folder_listing(source.root, source.folder) == source.info.listing:
            continue
        digest = (lambda sample: "") if source.pseudo else partial(truth_digest, source.competition)
        rule = "; ".join(changed_contents(contents, source.samples, digest))
        if rule:
            remedy = f"build it anew: `python build_dataset.py --data {source.root} --out {source.folder}`"
            faults.append(Fault(source.name, str(source.folder), f"{source.root} now has {rule}", remedy))
    if faults:
        raise InputError(faults)


def fold_inputs(
    sources: Sequence[Source], trained: Mapping[str, Sequence[str]], held_out: Iterable[str]
) -> dict[str, str]:
    """All that decides a training beside its settings, as `changed_inputs` compares it.

    Args:
        sources: The datasets that it trains on.
        trained: Their images that it trains on, by their own ids, by the name of the dataset.
        held_out: The images that it is scored on, by the ids that the experiment knows.
    """
    parts = {source.key(key): "trained on" for source in sources for key in trained[source.name]}
    parts |= dict.fromkeys(held_out, "held out")
    inputs = {f"part {key}": part for key, part in parts.items()}
    for source in sources:
        inputs[f"share {source.name}"] = str(source.weight)
        contents = {source.key(key): content for key, content in source.info.contents.items()}
        inputs |= content_inputs({key: content for key, content in contents.items() if key in parts})
    return inputs


def changed_contents(
    contents: Mapping[str, Content], samples: Mapping[str, Sample], mask_digest: Callable[[Sample], str]
) -> list[str]:
    """What differs between a folder and what was built from it, in words; images that are new or gone are left aside.

    Args:
        contents: What was there.
        samples: The images that are there now, by id.
        mask_digest: As for `measure_contents`.
    """
    before: dict[str, str] = {}
    now: dict[str, str] = {}
    for key, content in contents.items():
        sample = samples.get(key)
        if sample is None or not sample.image_path.is_file():
            continue
        status = sample.image_path.stat()
        is_same = (status.st_size, status.st_mtime_ns) == (content.size, content.time_ns)
        mask = mask_digest(sample) if content.mask else ""
        pixels = content.pixels if is_same else file_sha256(sample.image_path)
        before |= _keyed(key, content.pixels, content.mask, content.row)
        now |= _keyed(key, pixels, mask, table_row(sample))
    return changed_inputs(before, now)


def _keyed(key: str, pixels: str, mask: str, row: Mapping[str, str]) -> dict[str, str]:
    cells = "; ".join(f"{name} {value or 'not known'}" for name, value in row.items())
    return {f"pixels {key}": pixels[:32], f"mask {key}": mask[:32], f"row {key}": cells}


def content_inputs(contents: Mapping[str, Content]) -> dict[str, str]:
    """What each image is, as `changed_inputs` compares it."""
    inputs: dict[str, str] = {}
    for key, content in contents.items():
        inputs |= _keyed(key, content.pixels, content.mask, content.row)
    return inputs


def changed_inputs(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What differs between the inputs of two trainings, in words: kind by kind, the images that differ.

    An image that only one of them has is of another fold, and has no other pixels.
    """
    words = []
    for kind, name in CHANGES.items():
        keys = [key for key in dict.fromkeys([*before, *now]) if key.split(" ", 1)[0] == kind]
        both = kind != "part"
        changed = [k for k in keys if before.get(k) != now.get(k) and (not both or (k in before and k in now))]
        if changed:
            words.append(f"{name}: {listed_ids(_described(kind, key, before, now) for key in changed)}")
    return words


def _described(kind: str, key: str, before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """A changed image by its id; of what people can read both values."""
    name = key.partition(" ")[2]
    if kind == "row":
        pairs = zip(before[key].split("; "), now[key].split("; "), strict=False)
        both = "; ".join(f"{old} then, {new.partition(' ')[2]} now" for old, new in pairs if old != new)
        return f"{name} ({both})"
    if kind == "part":
        return f"{name} ({before.get(key, 'not there')} then, {now.get(key, 'not there')} now)"
    return f"{name} ({before[key]} then, {now[key]} now)" if kind == "share" else name
