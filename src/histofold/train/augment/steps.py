"""Our moves and changes as albumentations transforms, for presets and for pipelines of the user's own.

In files they are called `histofold.NAME`, as `histofold.TransferStain`. Anywhere but in `Preset` they draw as all
transforms of albumentations do, from the generator of the pipeline that they stand in.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Sequence
from typing import Any

import albumentations as A
import cv2
import numpy as np
from albumentations.core.serialization import SERIALIZABLE_REGISTRY

from histofold.schema.augment import AugmentConfig
from histofold.train.augment.geometry import ExampleDraws, Movement, draw_movement
from histofold.train.augment.pixels import (
    add_noise,
    change_thickness,
    compress_jpeg,
    cut_out,
    equalise_locally,
    jitter_colours,
    jitter_stains,
    lose_detail,
    sharpen_or_blur,
    show_grey,
)
from histofold.train.augment.stain import ColourTemplates, shift_to_template, transfer_stain

MOVES = ("flip", "rotate90", "affine", "scale", "rotate", "pixel_size", "pixel_size_ratio", "elastic", "grid")
"""What `Move` may be given: settings of `[augment]`, which say what each is."""


class OwnTransform(A.BasicTransform, ABC):
    """Is called by a short name in files."""

    @classmethod
    def get_class_fullname(cls) -> str:
        """Its name in files."""
        return f"histofold.{cls.__name__}"


class Move(OwnTransform, A.DualTransform):
    """Crops, symmetries, affine maps, zooms and deformations in one resampling; masks by their nearest pixel.

    Beside `image` and `mask` it moves a third target: to `log_zoom`, a number, it adds the natural logarithm of the
    pixel size that the result shows over that before. Heads of training learn it.

    Example:
        `Move(pixel_size=0.3, rotate90=1.0)`
    """

    def __init__(self, size: int = 0, p: float = 1.0, **moves: float) -> None:
        """Prepare.

        Args:
            size: Side of the result; 0: as the image's shorter side.
            p: Probability of any move.
            **moves: Probabilities and strengths by their names in `MOVES`; what is not given does not happen.

        Raises:
            ValueError: If a name is unknown or a value out of range.
        """
        super().__init__(p)
        if unknown := sorted(moves.keys() - set(MOVES)):
            raise ValueError(f"Move knows no {', '.join(unknown)}: it moves by {', '.join(MOVES)}")
        self.size, self.moves = size, moves
        self.draws: ExampleDraws | None = None
        self._config = AugmentConfig(preset="none", **moves).resolved()  # type: ignore[arg-type]

    @property
    def targets(self) -> dict[str, Callable[..., Any]]:
        """What is moved, and how."""
        return super().targets | {"log_zoom": self.apply_to_log_zoom}

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """The drawn movement."""
        draws = self.draws
        if draws is None:
            draws = ExampleDraws(np.random.default_rng(self.random_generator.integers(2**32, size=4)))
        shape_hw = data["image"].shape[:2]
        return {"movement": draw_movement(shape_hw, self.size or min(shape_hw), self._config, draws)}

    def apply(self, img: np.ndarray, movement: Movement, **params: Any) -> np.ndarray:
        """The moved image."""
        return movement.moved(img, cv2.INTER_LINEAR)

    def apply_to_mask(self, mask: np.ndarray, movement: Movement, **params: Any) -> np.ndarray:
        """The moved mask, of the values that it had."""
        return movement.moved(mask, cv2.INTER_NEAREST)

    def apply_to_log_zoom(self, log_zoom: float, movement: Movement, **params: Any) -> float:
        """The zoom so far and this one."""
        return log_zoom + float(np.log(movement.stretch))

    def get_transform_init_args(self) -> dict[str, Any]:
        """What it was made of."""
        return {"size": self.size, **self.moves}


class PixelStep(OwnTransform, A.ImageOnlyTransform, ABC):
    """A change of grey levels, by a function of `pixels` or `stain`."""

    change: Callable[..., np.ndarray]
    setting: tuple[str, float, float, float] | None = None
    """Its one setting, where it has one: name, usual value, lowest and highest."""

    def __init__(self, p: float = 0.5, **settings: float) -> None:
        """Prepare.

        Args:
            p: Probability of the change.
            **settings: The one that it has.

        Raises:
            ValueError: If a setting is unknown or out of range.
        """
        super().__init__(p)
        self.settings: dict[str, Any] = {}
        if self.setting:
            key, usual, lowest, highest = self.setting
            self.settings[key] = value = settings.pop(key, usual)
            if not lowest <= value <= highest:
                raise ValueError(f"{key}={value} of {type(self).__name__} must lie in [{lowest}, {highest}]")
        if settings:
            known = ", ".join(["p", *self.settings])
            raise ValueError(f"{type(self).__name__} has no setting {', '.join(sorted(settings))}: it has {known}")

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        """The changed image."""
        return type(self).change(img, generator=self.random_generator, **self.settings)

    def get_transform_init_args(self) -> dict[str, Any]:
        """What it was made of."""
        return self.settings


class SharpenOrBlur(PixelStep):
    """Blurs or sharpens: the optics."""

    change = staticmethod(sharpen_or_blur)


class JitterColours(PixelStep):
    """Changes brightness, contrast, saturation and hue, as one affine map."""

    change = staticmethod(jitter_colours)
    setting = ("strength", 0.2, 0, 1)


class JitterStains(PixelStep):
    """Changes the amounts of haematoxylin, eosin and DAB."""

    change = staticmethod(jitter_stains)
    setting = ("strength", 0.06, 0, 1)


class TransferStain(PixelStep):
    """Shows the tile in other stains, between H-DAB, H&E and PAS; `strength` is how far they stray from pure ones."""

    change = staticmethod(transfer_stain)
    setting = ("strength", 1.0, 0, 1)


class ShiftToTemplate(PixelStep):
    """Shifts the colours to a template drawn from the statistics of the training fold; not for files."""

    change = staticmethod(shift_to_template)

    def __init__(self, templates: Sequence[ColourTemplates] = (), spread: float = 1.0, p: float = 0.5) -> None:
        """Prepare.

        Args:
            templates: Of `fit_templates`.
            spread: Of the drawn templates, as a multiple of the fitted one.
            p: Probability of the change.
        """
        super().__init__(p)
        self.settings = {"templates": tuple(templates), "spread": spread}

    @classmethod
    def is_serializable(cls) -> bool:
        """Templates belong to a fold, not to a file."""
        return False


class ChangeThickness(PixelStep):
    """Shows the section thinner or thicker, by a factor of up to `ratio` to either side, drawn log-uniformly."""

    change = staticmethod(change_thickness)
    setting = ("ratio", 2.0, 1, 16)


class ShowGrey(PixelStep):
    """Shows the tile in grey."""

    change = staticmethod(show_grey)


class EqualiseLocally(PixelStep):
    """Equalises the brightness of neighbourhoods; `limit` is the largest gain of contrast."""

    change = staticmethod(equalise_locally)
    setting = ("limit", 3.0, 1, 100)


class LoseDetail(PixelStep):
    """Loses fine detail, as of a pixel size larger by up to `ratio`, drawn log-uniformly."""

    change = staticmethod(lose_detail)
    setting = ("ratio", 3.0, 1, 16)


class AddNoise(PixelStep):
    """Adds a camera's noise; `strength` is the largest standard deviation, as a share of white."""

    change = staticmethod(add_noise)
    setting = ("strength", 0.04, 0, 1)


class CompressJpeg(PixelStep):
    """Compresses as JPEG, at a quality between `quality` and 95."""

    change = staticmethod(compress_jpeg)
    setting = ("quality", 40, 1, 95)


class CutOut(PixelStep):
    """Paints over one to four rectangles with the mean colour; `area` is the largest share that they cover together."""

    change = staticmethod(cut_out)
    setting = ("area", 0.15, 0, 1)


def own_names() -> list[str]:
    """Names of our transforms in files."""
    return sorted(name for name in SERIALIZABLE_REGISTRY if name.startswith("histofold.") and name.count(".") == 1)


class Preset(A.Compose):
    """What the settings of `[augment]` ask for: one resampling, then slide, stain, optics and camera in this order.

    Each step has a stream of its own of the example's key, so that none disturbs another's numbers.
    """

    def __init__(self, config: AugmentConfig, size: int, templates: Sequence[ColourTemplates]) -> None:
        """Prepare.

        Args:
            config: With every field given.
            size: Side of the examples.
            templates: Colours of the training tiles, where they are wanted.
        """
        self._move = Move(size, **{name: getattr(config, name) for name in MOVES})
        made = {
            "sharpness": SharpenOrBlur(),
            "colour": JitterColours(strength=config.colour_strength or 0.0),
            "hed": JitterStains(strength=config.hed_strength or 0.0),
            "stain_transfer": TransferStain(),
            "stain_template": ShiftToTemplate(templates, config.stain_template_spread),
            "thickness": ChangeThickness(),
            "grey": ShowGrey(),
            "clahe": EqualiseLocally(),
            "detail": LoseDetail(ratio=config.detail_ratio or 1.0),
            "noise": AddNoise(),
            "jpeg": CompressJpeg(quality=config.jpeg_quality),
            "cutout": CutOut(),
        }
        self._changes = {name: step for name, step in made.items() if getattr(config, name) > 0}
        for name, step in self._changes.items():
            step.p = getattr(config, name)
        super().__init__([self._move, *self._changes.values()])

    def __call__(self, *args: Any, force_apply: bool = False, **data: Any) -> dict[str, Any]:
        """The example of a tile."""
        self._move.draws = draws = ExampleDraws(self.random_generator)
        data = self._move(**data)
        for name, step in self._changes.items():
            if (generator := draws.of(name, step.p)) is not None:
                step.set_random_state(generator, self.py_random)
                data = step(force_apply=True, **data)
        return data
