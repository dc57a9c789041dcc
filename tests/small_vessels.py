"""Outlines of vessels, as polygons.jsonl holds them."""


def box(left, top, right, bottom):
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def vessel(*rings, kind="blood_vessel"):
    return {"type": kind, "coordinates": list(rings)}
