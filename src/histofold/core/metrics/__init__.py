"""The hosts' metrics, exactly."""

from histofold.core.metrics.detections import coco_ap, openimages_ap
from histofold.core.metrics.glas import glas_object_scores
from histofold.core.metrics.instances import aji, panoptic_quality
from histofold.core.metrics.masks import dice
from histofold.core.metrics.surface import SurfaceDice, surface_dice

__all__ = [
    "SurfaceDice",
    "aji",
    "coco_ap",
    "dice",
    "glas_object_scores",
    "openimages_ap",
    "panoptic_quality",
    "surface_dice",
]
