"""`histofold simulate --weights DIR`: a fake hidden set through the packaged kernel, as Kaggle would run it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from histofold.commands import parse_options
from histofold.kaggle.simulate.plan import HiddenOptions, SimulateRequest


@dataclass(frozen=True, kw_only=True)
class SimulateOptions(SimulateRequest):
    """Run the packaged kernel on a fake hidden set as Kaggle would; exit status 2 where the verdict is bad."""

    hidden: Annotated[HiddenOptions, tyro.conf.arg(name="")] = field(default_factory=HiddenOptions)


def run(arguments: list[str]) -> int:
    """The verb."""
    options = parse_options(SimulateOptions, "simulate", arguments)
    from histofold.kaggle.simulate.simulate import simulate
    from histofold.synth.competitions import HiddenSlides, hidden_looks

    verdict = simulate(options, hidden_looks, HiddenSlides)
    print(verdict)
    return 2 if verdict.bad else 0
