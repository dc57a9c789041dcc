"""The order of the modules in a kernel, and the circles of imports that leave none."""

from __future__ import annotations

import graphlib
import heapq
from collections.abc import Collection, Iterator, Mapping

from histofold.core.faults import Fault
from histofold.kaggle.bundle.modules import Module


def import_order(modules: Mapping[str, Module], first: Collection[str] = ()) -> tuple[list[str], list[Fault]]:
    """Names in an order in which each stands after all that it needs, the smallest first among the ready ones.

    Args:
        modules: The closure.
        first: Names that go before all others that are ready with them.
    """
    graph = {name: {target for target in module.needs if target in modules} for name, module in modules.items()}
    sorter = graphlib.TopologicalSorter(dict(sorted(graph.items())))
    try:
        sorter.prepare()
    except graphlib.CycleError:
        return [], list(_cycle_faults(modules, graph))
    order, ready = [], list[tuple[bool, str]]()
    while sorter.is_active():
        for name in sorter.get_ready():
            heapq.heappush(ready, (name not in first, name))
        order.append(heapq.heappop(ready)[1])
        sorter.done(order[-1])
    return order, []


def _cycle_faults(modules: Mapping[str, Module], graph: Mapping[str, set[str]]) -> Iterator[Fault]:
    """One fault for each import that closes a circle, found by walking the graph in the order of names."""
    state: dict[str, bool] = {}  # False = on the path from the root, True = done
    path: list[str] = []

    def walk(name: str) -> Iterator[Fault]:
        state[name] = False
        path.append(name)
        for target in sorted(graph[name]):
            if state.get(target) is False:
                circle = " -> ".join([*path[path.index(target) :], target])
                remedy = "move what both need into a third module"
                yield modules[name].fault(modules[name].needs[target], f"circular import {circle}", remedy)
            elif target not in state:
                yield from walk(target)
        state[path.pop()] = True

    for name in sorted(graph):
        if name not in state:
            yield from walk(name)
