"""Objects: the instances of one image as runs, compared, thinned out, fused and merged without decoding a mask."""

from histofold.core.objects.detections import Detections
from histofold.core.objects.instances import Objects
from histofold.core.objects.overlaps import box_iou, pairwise_coverage, pairwise_iou

__all__ = ["Detections", "Objects", "box_iou", "pairwise_coverage", "pairwise_iou"]
