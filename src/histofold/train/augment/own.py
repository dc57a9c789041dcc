"""Albumentations pipelines of the user's own: read from a file or had from a function, tried, and known by content.

What its steps see: `image` uint8 (S, S, 3) and `mask` uint8 (S, S), bit k of which is class k and bit 7 what the loss
leaves out, or of objects their labels, uint16, 65535 of which is left out; masks are moved by their nearest pixel,
whatever the file says. Size and type must stay.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import inspect
import json
import random
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import yaml
from albumentations.core.serialization import SERIALIZABLE_REGISTRY, shorten_class_name

from histofold.core.faults import Fault, InputError
from histofold.data.tiles.labels import IGNORED_LABEL
from histofold.data.tiles.masks import IGNORED_BIT
from histofold.train.augment.steps import own_names

SETTING = "augment.pipeline"
_NAME = "__class_fullname__"
_TRIALS = 4
_KIND_REMEDY = "leave out what crops, pads, resizes or normalises: `augment.crop` crops, and the device normalises"


class OwnPipeline:
    """A user's pipeline that is known to work on tiles of a size."""

    def __init__(self, name: str, size: int, labels: bool = False) -> None:
        """Load and try it.

        Args:
            name: A file, or `module:function`.
            size: Side S of the examples.
            labels: Whether masks hold labels, uint16, instead of bits.

        Raises:
            InputError: If it cannot be had, fails, or gives something else than images and masks of that size and type.
        """
        self.name, self.compose = name, load_pipeline(name)
        image_HWC = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
        mask_HW = (image_HWC[..., 0] > 127) + np.uint8(IGNORED_BIT) * (image_HWC[..., 1] > 127)
        if labels:
            mask_HW = np.where(mask_HW >= IGNORED_BIT, IGNORED_LABEL, mask_HW).astype(np.uint16)
        # A step of low probability is tried, too: its error must not wait for the middle of a run.
        for compose in (self.compose, _certain(copy.deepcopy(self.compose))):
            for number in range(_TRIALS):
                compose.set_random_state(np.random.default_rng(number), random.Random(number))
                try:
                    example = compose(image=image_HWC.copy(), mask=mask_HW.copy())
                except Exception as error:  # of whatever kind the user's steps raise
                    rule = f"fails on a tile of {size} pixels ({error})"
                    raise _refusal(name, rule, "mend that step, or leave it out") from error
                self.refuse_changed_kind(example, image_HWC.shape, mask_HW)

    def refuse_changed_kind(self, example: dict[str, Any], shape: tuple[int, ...], mask_HW: np.ndarray) -> None:
        """Refuse an example that is none.

        Args:
            example: Of the pipeline, with `image` and `mask`.
            shape: That the image must have, (S, S, C).
            mask_HW: The mask before, bits (uint8) or labels (uint16); classes or labels that it has nowhere must not
                appear.

        Raises:
            InputError: With the size, type or values that it should have.
        """
        rules = [
            f"makes the {key} {example[key].dtype} of {tuple(example[key].shape)}: it must stay {kind} of {wanted}"
            for key, kind, wanted in (("image", np.dtype(np.uint8), shape), ("mask", mask_HW.dtype, shape[:2]))
            if example[key].shape != wanted or example[key].dtype != kind
        ]
        if rules:
            raise InputError([Fault(SETTING, self.name, rule, _KIND_REMEDY) for rule in rules])
        if _has_others(example["mask"], mask_HW):
            ignored = IGNORED_LABEL if mask_HW.dtype == np.uint16 else IGNORED_BIT
            remedy = f"fill masks with 0, or with {ignored} for what the loss shall leave out"
            raise _refusal(self.name, "gives the mask values of classes or objects that it does not show", remedy)


def _has_others(mask_HW: np.ndarray, before_HW: np.ndarray) -> bool:
    """Whether a mask has labels, or bits of classes, that the one before has nowhere; what is ignored aside."""
    if before_HW.dtype == np.uint16:
        is_known = np.zeros(IGNORED_LABEL + 1, bool)
        is_known[before_HW] = is_known[[0, IGNORED_LABEL]] = True
        return not is_known[mask_HW].all()
    allowed = int(np.bitwise_or.reduce(before_HW, axis=None)) | IGNORED_BIT
    return bool(int(np.bitwise_or.reduce(mask_HW, axis=None)) & ~allowed)


def load_pipeline(name: str) -> A.Compose:
    """A user's pipeline, its masks moved by their nearest pixel.

    Raises:
        InputError: If the file or function is missing, cannot be read, or names what is no step.
    """
    is_file = Path(name).suffix in (".yaml", ".yml", ".json")
    steps = _from_file(Path(name)) if is_file else _from_function(name)
    if not isinstance(steps, (A.BasicTransform, A.BaseCompose)):
        raise _refusal(name, f"gives {type(steps).__name__}, no pipeline", "give an albumentations.Compose")
    return A.Compose([steps], mask_interpolation=cv2.INTER_NEAREST)


def pipeline_digest(name: str) -> str:
    """Identifies a pipeline's steps and settings, and the source of the function that made it.

    Raises:
        InputError: As `load_pipeline`.
    """
    pipeline = load_pipeline(name)
    try:
        text = json.dumps(A.to_dict(pipeline)["transform"], sort_keys=True, default=_plain)
    except (NotImplementedError, ValueError):  # a step without a name, as A.Lambda: the source below holds it
        text = ""
    module = sys.modules.get(name.partition(":")[0])
    if module is not None:
        text += inspect.getsource(module)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else type(value).__name__


def _from_file(path: Path) -> Any:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _refusal(str(path), f"{error.strerror}", "check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _refusal(str(path), f"not a YAML file ({' '.join(str(error).split())})", "mend that line") from error
    if not isinstance(data, dict) or not isinstance(data.get("transform"), dict):
        remedy = "write it as albumentations.save does, or see docs/training.md"
        raise _refusal(str(path), "no key `transform` that holds a pipeline", remedy)
    steps = list(_steps(data["transform"]))
    ours = ", ".join(own_names())
    remedy = f"write a name of albumentations {A.__version__}, as HorizontalFlip, or one of ours: {ours}"
    names = [str(step.get(_NAME, "a step without a name")) for step in steps]
    unknown = [name for name in names if shorten_class_name(name) not in SERIALIZABLE_REGISTRY]
    faults = [Fault(SETTING, str(path), f"{name} is no transform", remedy) for name in unknown]
    for step in [step for step in steps if "transforms" not in step and not faults]:
        try:
            _built(path, step)
        except InputError as error:
            faults += error.faults
    if faults:
        raise InputError(faults)
    return _built(path, data["transform"])


def _steps(step: Any) -> Iterator[dict[str, Any]]:
    """A step's table and those of the steps in it."""
    table = step if isinstance(step, dict) else {_NAME: step}
    yield table
    children = table.get("transforms")
    for child in children if isinstance(children, list) else ():
        yield from _steps(child)


def _built(path: Path, step: dict[str, Any]) -> Any:
    """A step, or a pipeline of known ones.

    Raises:
        InputError: If it has other settings, or other values of them.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # of settings that it does not know, or p left out
            return A.from_dict({"transform": step})
    except (UserWarning, ValueError, TypeError) as error:
        # Of pydantic, whose own text is a page.
        validated: list[dict[str, Any]] = getattr(error.__cause__, "errors", list)()
        words = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in validated]
        rule = f"{step[_NAME]}: {'; '.join(words) or ' '.join(str(error).split())}"
        raise _refusal(str(path), rule, "change that setting") from error


def _from_function(name: str) -> Any:
    module, _, function = name.partition(":")
    if str(Path.cwd()) not in sys.path:  # a command has its own folder there, where `python -m` has this one
        sys.path.append(str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), function)()
    except Exception as error:  # of whatever kind the user's code raises
        rule = f"gives no pipeline ({type(error).__name__}: {error})"
        raise _refusal(name, rule, "mend it; its module is looked for here and among what is installed") from error


def _certain(step: Any) -> Any:
    """The same pipeline, all of whose steps happen."""
    step.p = 1.0
    for child in getattr(step, "transforms", ()):
        _certain(child)
    return step


def _refusal(name: str, rule: str, remedy: str) -> InputError:
    return InputError([Fault(SETTING, name, rule, remedy)])
