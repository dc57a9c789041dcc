"""What a network says of a slide before the threshold, small enough for a picture."""

from __future__ import annotations

import numpy as np

from histofold.imaging.slide import open_slide
from histofold.imaging.stain import network_view
from histofold.predict.ensemble import Ensemble
from histofold.predict.image import grid_of
from histofold.predict.joint import ensemble_stages
from histofold.predict.tiled import predict_bands
from histofold.schema.manifest import Manifest
from histofold.schema.sample import Sample

LARGEST_LOGIT = 10.0


def logit_map(ensemble: Ensemble, manifest: Manifest, sample: Sample, side: int) -> np.ndarray:
    """Logits of the average over the views of one zoom, every so many pixels of the network's scale.

    Args:
        ensemble: The network.
        manifest: Scale, tiles and batch.
        sample: The slide.
        side: Most pixels of the longer side.

    Returns:
        float32 (K, h, w), within plus and minus `LARGEST_LOGIT`.

    Raises:
        ImageError: If the slide cannot be read.
    """
    stage = ensemble_stages(ensemble, manifest)[0]
    manifest = stage.manifest
    with open_slide(sample.image_path) as slide:
        view = network_view(slide, manifest.preprocessing, sample.pixel_size_um)
        step = max(1, -(-max(view.shape_hw) // side))
        bands = predict_bands(stage.forward, view, grid_of(manifest, view.shape_hw), manifest.batch, manifest.blend)
        thinned = [values_KHW[:, -y % step :: step, ::step].copy() for y, values_KHW in bands]
    logits_KHW = np.concatenate(thinned, axis=1).astype(np.float64)
    if manifest.average == "probabilities":
        probs_KHW = np.clip(logits_KHW, 1e-12, 1 - 1e-12)
        logits_KHW = np.log(probs_KHW) - np.log1p(-probs_KHW)
    return np.clip(logits_KHW, -LARGEST_LOGIT, LARGEST_LOGIT).astype(np.float32)
