"""What is known of an encoder by its name alone: what sides of images it takes."""

from __future__ import annotations

import re
from collections.abc import Mapping

WINDOWED = ("tu-maxvit", "tu-maxxvit")
"""Encoders whose windows are a fixed share of the side they are built for; they take multiples of it."""
ONE_SIDE = ("tu-hiera_", "tu-coatnet")
"""Encoders that take images of the side that they are built for, and no others."""
PLAIN_TRANSFORMERS = ("tu-vit_", "tu-deit", "tu-eva02_")
"""Vision transformers of one scale, which DPT makes maps of; their position embedding is built for a side."""
UNDILATED = ("tu-swin", "tu-pvt_v2", "tu-coat", "tu-caformer", "tu-convformer", "tu-sam2_hiera", *WINDOWED, *ONE_SIDE)
"""Encoders whose strides cannot become dilations."""


def has_built_side(encoder: str) -> bool:
    """Whether an encoder is built for images of one side, `ModelConfig.image_size`."""
    return encoder.startswith((*WINDOWED, *ONE_SIDE, *PLAIN_TRANSFORMERS))


def built_side(encoder: str, image_size: int = 0) -> int:
    """The side in pixels that an encoder is built for: the chosen one, else the last number of its name.

    Raises:
        ValueError: If neither says it.
    """
    numbers = re.findall(r"_(\d{3,4})(?![^_.])", encoder.partition(".")[0])
    if not image_size and not numbers:
        raise ValueError(f"{encoder} is built for images of one side: set image_size")
    return image_size or int(numbers[-1])


def check_sides(encoder: str, image_size: int, sides: Mapping[str, int]) -> None:
    """Refuse images that an encoder cannot take, or would have to see padded.

    Args:
        encoder: Its name.
        image_size: The side that it is built for, 0 for its own.
        sides: Side of the images in pixels, by the setting that says so.

    Raises:
        ValueError: With the first of them that does not fit, what fits, and what to set.
    """
    if not encoder.startswith((*WINDOWED, *ONE_SIDE)):
        return
    side = built_side(encoder, image_size)
    rule = f"images of {side} px alone" if encoder.startswith(ONE_SIDE) else f"multiples of {side} px"
    for setting, value in sides.items():
        if value != side and (encoder.startswith(ONE_SIDE) or value % side):
            raise ValueError(f"{setting}={value}: {encoder} takes {rule}: set model.image_size={value}, or {setting}")
