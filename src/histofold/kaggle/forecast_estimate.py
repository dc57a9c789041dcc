"""The forecast for the hidden set on two T4 without a log of a real run: an estimate, which says what it assumes.

Forward: the floating point operations of every member and view, counted by torch on one tile, over an assumed
throughput. NVIDIA's data sheet of the T4 (2018) gives 65 TFLOPS of fp16 with fp32 sums as its peak; that plain PyTorch
reaches 6 to 30 per cent of it (4 to 20 TFLOPS) is an assumption, not a measurement. All else: processor time of
reading, resampling, encoding and cleaning, measured here with a network that costs nothing, on slides without a file.
Where both overlap perfectly the longer one counts (low), else their sum (high).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from histofold.kernels.forecast import REHEARSAL_PIXEL_SIZE_UM, RehearsalSlide
from histofold.schema.manifest import Manifest
from histofold.schema.views import views_by_zoom

T4_TFLOPS = (4.0, 20.0)
"""Assumed throughput of one T4 in fp16: least and most."""
T4_COUNT = 2
HOST_SIDE = 1500
"""Side in pixels of the slide that the host's share is measured on."""


@dataclass(frozen=True, kw_only=True)
class T4Estimate:
    """What the hidden set takes on two T4, roughly.

    Attributes:
        images: Images of the hidden set.
        side: Side in pixels of the largest; all are taken as that large.
        tflop: Trillions of floating point operations that one of them costs, with all members and views.
        host_s: Seconds of one core that one of them costs beside the network.
        start_s: Seconds from the start to the first image.
        limit_s: Seconds after which all must be written.
    """

    images: int
    side: int
    tflop: float
    host_s: float
    start_s: float
    limit_s: float

    def range_s(self) -> tuple[float, float]:
        """Least and most seconds."""
        slow, fast = (self.tflop / (rate * T4_COUNT) for rate in T4_TFLOPS)
        return (
            self.start_s + self.images * max(fast, self.host_s),
            self.start_s + self.images * (slow + self.host_s),
        )

    def words(self) -> list[str]:
        """The estimate, and what it stands on."""
        low, high = (seconds / 3600 for seconds in self.range_s())
        return [
            f"an ESTIMATE, nothing was run on a T4: {low:.2f} to {high:.2f} of the {self.limit_s / 3600:.2f} h after "
            f"which all must be written, for {self.images} images, all as large as the largest ({self.side} x "
            f"{self.side})",
            f"of one image: {self.tflop:.2f} TFLOP forward (counted), on {T4_COUNT} x T4 of {T4_TFLOPS[0]:g} to "
            f"{T4_TFLOPS[1]:g} TFLOPS (assumed; peak 65), and {self.host_s:.2f} s of one core beside it (measured)",
        ]


def estimate_on_t4(
    packages: Sequence[tuple[Path, Manifest]], *, images: int, side: int, start_s: float, limit_s: float
) -> T4Estimate:
    """Count and measure what one of the largest hidden images costs.

    Args:
        packages: Weight folders with their manifests; a member's network is built, its weights are not read.
        images: Images of the hidden set.
        side: Side in pixels of the largest.
        start_s: Seconds from the start to the first image.
        limit_s: Seconds after which all must be written.
    """
    tflop = sum(_image_tflop(manifest, side) for _, manifest in packages)
    host_s = sum(_host_s(manifest) for _, manifest in packages) * (side / HOST_SIDE) ** 2
    return T4Estimate(images=images, side=side, tflop=tflop, host_s=host_s, start_s=start_s, limit_s=limit_s)


def _image_tflop(manifest: Manifest, side: int) -> float:
    """Operations of all members and views on one image, in trillions; one of a multiplication and one of a sum each."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from histofold.models.build import build_model
    from histofold.predict.image import grid_of

    total = 0
    for member in manifest.members:
        seen = replace(manifest, preprocessing=member.preprocessing or manifest.preprocessing)
        model = build_model(member.architecture, member.arguments).eval()
        flops: dict[int, int] = {}
        for zoom, views in views_by_zoom(manifest.views).items():
            scaled_hw = seen.preprocessing.zoomed(zoom).scaled_hw((side, side), REHEARSAL_PIXEL_SIZE_UM)
            grid = grid_of(seen, scaled_hw)
            if grid.size not in flops:
                with FlopCounterMode(display=False) as counter, torch.inference_mode():
                    model(torch.zeros(1, 3, grid.size, grid.size))
                flops[grid.size] = counter.get_total_flops()
            total += flops[grid.size] * len(grid) * len(views)
    return total / 1e12


def _host_s(manifest: Manifest) -> float:
    """Processor seconds of a slide of `HOST_SIDE` beside the network: read, resampled, encoded; the better of two."""
    import numpy as np

    from histofold.predict.image import predict_image
    from histofold.predict.joint import Stage

    half_CHW = np.full((len(manifest.classes), 1, 1), 0.25, np.float32)

    def free_network(images_NHWC: np.ndarray) -> np.ndarray:
        shape = (len(images_NHWC), len(half_CHW), *images_NHWC.shape[1:3])
        return np.ascontiguousarray(np.broadcast_to(half_CHW, shape))

    stages = [
        Stage(free_network, replace(manifest, preprocessing=manifest.preprocessing.zoomed(zoom), views=views))
        for zoom, views in views_by_zoom(manifest.views).items()
    ]
    stages = [replace(stage, share=1 / len(stages)) for stage in stages]
    slide = RehearsalSlide((HOST_SIDE, HOST_SIDE))
    spent = []
    for _ in range(2):
        started = time.process_time()
        predict_image(stages, slide, REHEARSAL_PIXEL_SIZE_UM, manifest, [0.5])  # type: ignore[arg-type]
        spent.append(time.process_time() - started)
    return min(spent)
