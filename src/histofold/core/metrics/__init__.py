"""The hosts' metrics, exactly, and what is wrong with single objects."""

from histofold.core.metrics.detections import coco_ap, openimages_ap
from histofold.core.metrics.errors import ObjectErrors, object_errors
from histofold.core.metrics.glas import glas_object_scores
from histofold.core.metrics.instances import aji, panoptic_quality
from histofold.core.metrics.masks import dice
from histofold.core.metrics.surface import SurfaceDice, surface_dice

__all__ = [
    "ObjectErrors",
    "SurfaceDice",
    "aji",
    "coco_ap",
    "dice",
    "glas_object_scores",
    "object_errors",
    "openimages_ap",
    "panoptic_quality",
    "surface_dice",
]
