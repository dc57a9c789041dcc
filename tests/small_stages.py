"""Stages of functions and of small modules, for tests of prediction."""

import torch

from histofold.predict.stages import Networks, Stage, build_stages

CPU = torch.device("cpu")


class FunctionNetworks:
    """Any function of uint8 tiles NHWC to float32 values NKHW in place of networks."""

    device = CPU

    def __init__(self, function):
        self.function = function

    def __call__(self, images_NHWC, passes, manifest):
        return self.function(images_NHWC)


def stage_of(function, manifest, share=1.0):
    """One stage that is a function of tiles."""
    return Stage((FunctionNetworks(function),), manifest, (), share)


def stages_of_models(models, manifest, weights=None, precision=torch.float32, copies=1):
    """The stages of modules that see images alike, on so many devices."""
    networks = [Networks(models, CPU, precision) for _ in range(copies)]
    return build_stages(networks, [(manifest, weight) for weight in weights or [1.0] * len(models)])


def averaged(stages, images_NHWC, level=None):
    """Tiles through the passes of the first stage, all of them or those that a level leaves."""
    stage = stages[0]
    passes = stage.passes if level is None else stage.passes_at(level)
    return stage.networks[0](images_NHWC, passes, stage.manifest)
