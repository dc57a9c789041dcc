"""Small training runs: a handful of pictures of 64 pixels and a network of a few weights."""

from dataclasses import replace

import torch
from torch import nn

from histofold.schema.augment import AugmentConfig
from histofold.schema.dataset import DataConfig
from histofold.schema.experiment import TrainConfig
from histofold.train.fold import prepare_fold
from small_datasets import BASE, build, draw, make_folder

STILL = AugmentConfig(flip=0.0, rotate90=0.0, affine=0.0, sharpness=0.0, colour=0.0, hed=0.0)


class TinyEncoder(nn.Module):
    """Maps at a half and a quarter."""

    def __init__(self, norm):
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), norm(6), nn.ReLU())
        self.coarse = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), norm(8), nn.ReLU())

    def forward(self, images_NCHW):
        fine = self.fine(images_NCHW)
        return [fine, self.coarse(fine)]


class TinyNet(nn.Module):
    """The contract of every network, in a thousand weights."""

    def __init__(self, norm=nn.BatchNorm2d, classes=1):
        super().__init__()
        self.encoder = TinyEncoder(norm)
        self.head = nn.Conv2d(8, classes, 1)

    def forward(self, images_NCHW):
        logits = self.head(self.encoder(images_NCHW)[-1])
        return nn.functional.interpolate(logits, images_NCHW.shape[2:], mode="bilinear", align_corners=False)


def small_dataset(root):
    """Eight pictures in two folds, built; gives its folder."""
    pictures = {f"p{n}": draw(n) for n in range(8)}
    return build(make_folder(root / "raw", pictures), root / "dataset")


def small_experiment(dataset, **sections):
    """An experiment on it whose sections are changed as named: train={"steps": 3}."""
    quick = TrainConfig(steps=6, batch=2, workers=0, validate_every=3, save_every=3)
    experiment = replace(BASE, data=DataConfig(dataset=str(dataset)), train=quick, augment=STILL)
    changed = {name: replace(getattr(experiment, name), **values) for name, values in sections.items()}
    return replace(experiment, **changed)


def small_setup(dataset, runs, **sections):
    """Its fold 0, ready to train."""
    return prepare_fold(small_experiment(dataset, **sections), "small", runs, 0, None)


def use_tiny_nets(monkeypatch, norm=nn.BatchNorm2d):
    """Have training build a tiny network, whatever the experiment names."""
    monkeypatch.setattr("histofold.train.run.build_network", lambda *_: TinyNet(norm))


def same_tensors(first, second):
    """Whether two state dicts are equal to the bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
