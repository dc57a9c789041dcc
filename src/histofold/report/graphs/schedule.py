"""The schedule of a run as a picture, before a step of it is made."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes

from histofold.report.graphs import INK, LABEL, MUTED, PALETTE, finish_figure, new_figure, style_axes
from histofold.schema.optim import OptimConfig

_RATE_COLOUR, _ENCODER_COLOUR, _MOMENTUM_COLOUR, _SPAN_COLOUR = *PALETTE[:3], PALETTE[-1]
_GROWING_COLOUR = "#BFC3CA"
_STAIRS = ("step", "multi_step", "plateau")
# An encoder slower than this share of all else lies on the floor of a linear axis.
_LEAST_LINEAR_FACTOR = 0.2
_MOST_DECADES, _MOST_LEVELS = 4, 100
# The span of the averages' warm-up: ModelEmaV3 goes by 1 - (1 + step) ** (-2 / 3) until that exceeds the decay.
_EMA_POWER = 2 / 3


class _Span(NamedTuple):
    """Steps in which something holds: first, one after the last, in words, and where it has come to its full extent."""

    start: float
    end: float
    text: str
    full_from: float


def plot_schedule(
    table: pd.DataFrame, config: OptimConfig, *, steps_per_epoch: float | None = None, path: Path | None = None
) -> bytes:
    """Draw the learning rate of each group of parameters, the momentum where it moves, and what holds when.

    Args:
        table: Of every step of the run: columns step, lr (of parameters with the factor 1) and momentum.
        config: What the table was made of.
        steps_per_epoch: For a second axis in epochs; None leaves it out.
        path: File to write, if any.

    Returns:
        The PNG's bytes.
    """
    steps, spans = len(table), _spans(config, len(table))
    heights = [3.0] + [1.1] * bool(config.low_momentum) + [0.1 + 0.42 * len(spans)] * bool(spans)
    figure = new_figure(sum(heights) + 1.2)
    panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    _draw_rates(panels[0], table, config)
    if config.low_momentum:
        name = "Momentum" if config.optimizer == "sgd" else "First beta"
        style_axes(panels[1], name)
        panels[1].plot(table["step"], table["momentum"], color=_MOMENTUM_COLOUR, lw=1.8)
    if spans:
        _draw_spans(panels[-1], spans, steps)
    panels[-1].set_xlabel("optimisation step")
    panels[0].set_xlim(0, max(1, steps))
    if steps_per_epoch is not None:
        _add_epochs(panels[0], steps_per_epoch)
    return finish_figure(figure, path)


def _draw_rates(axes: Axes, table: pd.DataFrame, config: OptimConfig) -> None:
    """The rates; on a log axis where they fall by factors or lie far apart."""
    factor = config.encoder_lr_factor
    is_log = config.schedule in _STAIRS or 0 < factor < _LEAST_LINEAR_FACTOR
    power = math.floor(math.log10(config.lr))
    power = 0 if is_log or -2 < power < 3 else power
    unit = f" (×10$^{{{power}}}$)" if power else ""
    style_axes(axes, f"Learning rate{unit}: {config.schedule}, {config.optimizer}")
    lines = [("all parameters" if factor == 1 else "all but the encoder", table["lr"], _RATE_COLOUR)]
    if factor != 1:
        lines.append((f"encoder (×{factor:g})", table["lr"] * factor, _ENCODER_COLOUR))
    for name, rates, colour in lines:
        label = f"{name}\npeak {rates.max():.3g}, last {rates.iloc[-1]:.3g}"
        axes.plot(
            table["step"], (rates.where(rates > 0) if is_log else rates) / 10.0**power, c=colour, lw=1.8, label=label
        )
    if is_log:
        _set_log_axis(axes, pd.concat([rates[round(config.warmup * len(table)) :] for _, rates, _ in lines]))
    else:
        axes.set_ylim(bottom=0)
    if config.schedule == "plateau":
        _draw_levels(axes, config)
    beside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "frameon": False}
    axes.legend(fontsize=9, labelcolor=INK, handlelength=1.6, **beside)


def _draw_levels(axes: Axes, config: OptimConfig) -> None:
    """What the rates of plateau may fall to, dashed: when they do is not known beforehand."""
    shares = [max(config.final_lr, config.gamma**fall) for fall in range(1, _MOST_LEVELS)]
    levels = sorted({config.lr * share for share in shares if share > 0 and share < 1})
    if levels:
        label = "the next rates, one\nat each plateau of\nthe validation score"
        place = axes.get_yaxis_transform()
        axes.hlines(levels, 0, 1, transform=place, color=MUTED, lw=0.8, ls=(0, (3, 3)), label=label)
        low, high = axes.get_ylim()
        axes.set_ylim(max(min(low, levels[0] / 1.5), high / 10**_MOST_DECADES), high)


def _set_log_axis(axes: Axes, rates: pd.Series) -> None:
    """A log axis as deep as the rates after the warm-up, whose first steps would take decades for themselves."""
    positive = rates[rates > 0]
    axes.set_yscale("log")
    axes.minorticks_off()
    if len(positive):
        axes.set_ylim(max(positive.min() / 3, positive.max() / 10**_MOST_DECADES), positive.max() * 1.5)


def _spans(config: OptimConfig, steps: int) -> list[_Span]:
    """What holds for a part of the run."""
    spans = []
    if warmup := round(config.warmup * steps):
        word = "rise" if config.schedule == "one_cycle" else "warm-up"
        spans.append(_Span(0, warmup, f"{word}: {warmup} steps", 0))
    if config.ema:
        full_from = (1 - config.ema) ** (-1 / _EMA_POWER) - 1
        when = f"reached at step {full_from:.0f}" if full_from <= steps else "not reached in this run"
        reach = f"about the last {1 / (1 - config.ema):.0f} steps, {when}"
        spans.append(_Span(0, steps, f"moving average: decay {config.ema:g}, {reach}", min(steps, full_from)))
    if config.average_from < 1:
        start = min(round(config.average_from * steps), steps - 1)
        count = -(-(steps - start) // config.average_every)
        spans.append(
            _Span(start, steps, f"equal average: {count} weights, one every {config.average_every} steps", start)
        )
    return spans


def _draw_spans(axes: Axes, spans: list[_Span], steps: int) -> None:
    """One bar a span, light until it has come to its full extent, its text above it."""
    style_axes(axes, "", grid="x")
    for row, span in enumerate(spans):
        axes.barh(-row, span.full_from - span.start, left=span.start, height=0.22, color=_GROWING_COLOUR)
        axes.barh(-row, span.end - span.full_from, left=span.full_from, height=0.22, color=_SPAN_COLOUR)
        is_late = span.start > steps / 2
        place: dict[str, Any] = {"xytext": (0, 5), "textcoords": "offset points", "va": "bottom"}
        axes.annotate(
            span.text,
            (span.end if is_late else span.start, 0.1 - row),
            ha="right" if is_late else "left",
            **place,
            **LABEL,
        )
    axes.set_ylim(0.3 - len(spans), 0.75)
    axes.set_yticks([])


def _add_epochs(axes: Axes, steps_per_epoch: float) -> None:
    """A second axis above the first panel."""

    def to_epochs(steps: Any) -> Any:
        return steps / steps_per_epoch

    def to_steps(epochs: Any) -> Any:
        return epochs * steps_per_epoch

    epochs = axes.secondary_xaxis("top", functions=(to_epochs, to_steps))
    epochs.spines["top"].set_visible(False)
    epochs.tick_params(length=0, labelsize=9, labelcolor=MUTED, pad=1)
    epochs.set_xlabel("epoch", fontsize=9.5, color=MUTED, loc="right", labelpad=4)
