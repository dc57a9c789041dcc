"""Tiles as a map-style dataset: read, augmented, with what the losses ask of each."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.data.tiles.files import middle_channels, read_tile
from histofold.data.tiles.labels import IGNORED_LABEL, joined_labels
from histofold.data.tiles.masks import IGNORED_BIT
from histofold.imaging.stain import StainMap, slide_stain_maps
from histofold.imaging.tissue import tissue_mask
from histofold.train.augment.cutmix import CutMix
from histofold.train.augment.pipeline import Augmenter
from histofold.train.augment.stain import kept_templates
from histofold.train.fold import FoldSetup
from histofold.train.objects.targets import collate_examples, dense_example, detector_example, mask_example

LEVEL_STREAM = 1000
"""Of an example's key, far from those of the augmentation's steps: what soft masks are cut at."""


def training_tiles(setup: FoldSetup, keep: bool = True) -> TileDataset:
    """The tiles of a fold, normalised as its slides are in prediction, and augmented.

    Colour templates, where the augmentation wants them, are fitted on these tiles alone.

    Args:
        setup: The fold.
        keep: Whether to keep the templates as runs/E/fold{k}/colours.json; of several processes only one should.

    Raises:
        InputError: If colour templates are wanted and every tile is blank, or slides are to be normalised and one is
            no longer in its folder.
        ImageError: If slides are to be normalised and one cannot be read.
    """
    config, seed = setup.experiment.augment.resolved(), setup.experiment.train.seed
    size = int(setup.index["size"].iloc[0])
    made = partial(Augmenter, size=size, labels=setup.manifest.objects is not None)
    tiles = partial(
        TileDataset,
        setup.dataset,
        setup.index,
        seed=seed,
        stain_maps=_stain_maps(setup),
        classes=1 if setup.manifest.objects is not None else setup.experiment.model.classes,
        organs=setup.organs,
        ignore_blank=setup.experiment.loss.ignore == "blank",
        cutmix=_cutmix(setup),
        as_example=_example_maker(setup),
        channels=setup.manifest.preprocessing.channels,
    )
    bare = tiles(augmenter=made(replace(config, stain_template=0.0)))
    if not config.stain_template:
        return bare
    templates = kept_templates(
        setup.folder / "colours.json", setup.digest, setup.index["source"], lambda tile: bare.read(tile)[0], keep
    )
    if not templates:
        rule = "every training tile is blank: there are no colours to fit"
        raise InputError([Fault("augment.stain_template", str(setup.dataset), rule, "set it to 0")])
    return tiles(augmenter=made(config, templates=templates))


def _example_maker(setup: FoldSetup) -> Callable[[np.ndarray, np.ndarray], dict[str, Any]]:
    """What makes a fold's examples of augmented images and their masks or labels."""
    if setup.manifest.objects is None:
        return mask_example
    return detector_example if setup.is_detector else dense_example


def _stain_maps(setup: FoldSetup) -> dict[str, StainMap]:
    """The stain normalisation of each training slide; empty where there is none."""
    gone = sorted(set(setup.index["id"]) - {sample.id for sample in setup.training})
    if gone and setup.manifest.preprocessing.stain != "none":
        rule, remedy = "its tiles cannot be normalised: it is not in the competition", "put it back, or build anew"
        raise InputError([Fault(key, str(setup.dataset / "folds.csv"), rule, remedy) for key in gone])
    return slide_stain_maps(setup.training, setup.manifest.preprocessing)


def _cutmix(setup: FoldSetup) -> CutMix | None:
    """What the augmentation cuts and mixes among a fold's training tiles; None where it does not."""
    config, index = setup.experiment.augment.resolved(), setup.index
    if not config.cutmix:
        return None
    cutmix = CutMix(index["organ"], index["id"], probability=config.cutmix)
    if cutmix.tiles_with_partner < len(index):
        alone = len(index) - cutmix.tiles_with_partner
        logger.warning("fold %d: no CutMix for %d tiles, whose organ has no other slide", setup.fold, alone)
    return cutmix


class TileDataset(Dataset[dict[str, Any]]):
    """uint8 tiles and masks, augmented; indexed by (tile, epoch, position) so that each draw is its own.

    The device normalises and unpacks the masks: workers ship a quarter of the bytes that float32 would be.
    """

    def __init__(
        self,
        folder: Path,
        index: pd.DataFrame,
        augmenter: Augmenter,
        seed: int,
        stain_maps: Mapping[str, StainMap] | None = None,
        *,
        classes: int = 1,
        organs: Sequence[str] = (),
        ignore_blank: bool = False,
        cutmix: CutMix | None = None,
        as_example: Callable[[np.ndarray, np.ndarray], dict[str, Any]] = mask_example,
        channels: int = 3,
    ) -> None:
        """Prepare.

        Args:
            folder: The built dataset.
            index: Its tiles that are trained on; a column `folder` says where those of several datasets lie.
            augmenter: What is done to each.
            seed: Seed of the augmentation.
            stain_maps: Stain normalisation of each slide by its id; the tiles of others stay as they are.
            classes: Number of mask classes K, 7 at most.
            organs: The fold's organs, whose places the examples tell.
            ignore_blank: Whether the loss leaves out what is no tissue, labels on blank glass with it.
            cutmix: What is replaced by pieces of other tiles; None: nothing.
            as_example: What the network is given of an augmented image and its mask or labels.
            channels: Channels of an example, the middle ones of tiles that hold more slices.
        """
        self._folders = [Path(name) for name in index["folder"]] if "folder" in index else [folder] * len(index)
        self._tile_ids, self._classes = index["tile_id"].tolist(), classes
        self._stain_maps = [stain_maps.get(slide_id) for slide_id in index["id"]] if stain_maps else [None] * len(index)
        places = {organ: place for place, organ in enumerate(organs)}
        known = index["organ"] if "organ" in index else [""] * len(index)
        self._organs = torch.tensor([places.get(organ, -1) for organ in known], dtype=torch.int64)
        self._augmenter, self._seed = augmenter, seed
        self._ignore_blank, self._cutmix, self._as_example = ignore_blank, cutmix, as_example
        self._channels = channels

    def __len__(self) -> int:
        """Number of tiles."""
        return len(self._tile_ids)

    def __getitem__(self, draw: tuple[int, int, int]) -> dict[str, Any]:
        """The example of a draw (tile, epoch, position).

        Returns:
            `image` uint8 HWC; `mask` uint8 HW, bit k for class k and `IGNORED_BIT`; `organ` int64, the place in the
            fold's organs or -1; `log_zoom` float32, ln of the pixel size that the example shows over the tile's own. Of
            networks of objects instead of `mask` what `detector_example` or `dense_example` says.
        """
        tile, epoch, position = draw
        key = (self._seed, epoch, position)
        # Bits move through the augmentation as one mask, since it only ever moves pixels of masks as they are.
        image_HWC, mask_HW, log_zoom = self._augmenter(*self.read(tile, _level(key)), key)
        cut = self._cutmix.draw(tile, key, mask_HW.shape) if self._cutmix else None
        if cut is not None:
            other = self._augmenter(*self.read(cut.partner, _level(cut.key)), cut.key)
            image_HWC[cut.y, cut.x] = other.image_HWC[cut.y, cut.x]
            pasted_HW = other.mask_HW[cut.y, cut.x]
            mask_HW[cut.y, cut.x] = pasted_HW if mask_HW.dtype == np.uint8 else joined_labels(mask_HW, pasted_HW)
            # One number for both pieces: mixed by area, as the paper mixes labels.
            share = pasted_HW.size / mask_HW.size
            log_zoom = (1 - share) * log_zoom + share * other.log_zoom
        return {
            **self._as_example(image_HWC, mask_HW),
            "organ": self._organs[tile],
            "log_zoom": torch.tensor(log_zoom, dtype=torch.float32),
        }

    def read(self, tile: int, level: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """A tile as prediction would see it, before augmentation: image uint8 HWC, mask uint8 HW bits or uint16 labels.

        Blank glass is looked for on the tile as it was cut, since stain normalisation may colour it. A soft mask is cut
        at the level, 1 to 255.
        """
        stored_HWC, mask_HW = read_tile(self._folders[tile], self._tile_ids[tile], self._classes, level)
        image_HWC = middle_channels(stored_HWC, self._channels)
        if self._ignore_blank:
            blank_HW = ~tissue_mask(middle_channels(image_HWC))
            if mask_HW.dtype == np.uint8:
                mask_HW |= blank_HW.astype(np.uint8) * np.uint8(IGNORED_BIT)
            else:
                mask_HW[blank_HW] = IGNORED_LABEL
        stain_map = self._stain_maps[tile]
        return (image_HWC if stain_map is None else stain_map(image_HWC)), mask_HW


def _level(key: tuple[int, ...]) -> int:
    """Where an example cuts a soft mask: at any level alike, so that a pixel is mask as often as it is probable.

    The mean of the cross-entropy over such examples is that of the probability itself, and every term of the loss has a
    whole mask to work with.
    """
    stream = np.random.SeedSequence(key, spawn_key=(LEVEL_STREAM,))
    return int(np.random.default_rng(stream).integers(1, 256))


def make_loader(
    dataset: TileDataset, sampler: Sampler[tuple[int, int, int]], batch: int, workers: int
) -> DataLoader[Any]:
    """An endless loader of full batches, as `collate_examples` makes them: tensors with a first axis of `batch`."""
    return DataLoader(
        dataset,
        batch_size=batch,
        sampler=sampler,
        collate_fn=collate_examples,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_quiet_worker,
        prefetch_factor=4 if workers else None,
        # One of its own: the loader would draw from the global generator, which a resumed run has just restored.
        generator=torch.Generator(),
    )


def _quiet_worker(worker: int) -> None:
    """One thread a worker: they are parallel already. A terminal's interrupt is for the process that they work for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
