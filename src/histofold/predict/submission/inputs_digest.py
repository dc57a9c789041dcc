"""What a prediction is made from, as one digest: results of an interrupted run are taken over only where it agrees."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from histofold.schema.manifest import Manifest, manifest_json
from histofold.schema.sample import Sample


def inputs_digest(manifests: Sequence[Manifest], samples: Sequence[Sample]) -> str:
    """SHA-256 over the manifests (hence the weights), what the tables say of the samples, and their files' stamps.

    Args:
        manifests: Those of the ensemble, in order.
        samples: What is predicted, in the order of the rows.
    """
    described = [
        [s.id, s.organ, s.source, s.pixel_size_um, s.image_path.name, *image_stamp(s.image_path)] for s in samples
    ]
    text = json.dumps([[manifest_json(manifest) for manifest in manifests], described])
    return hashlib.sha256(text.encode()).hexdigest()


def image_stamp(path: Path) -> tuple[int, int]:
    """Size in bytes and time in ns of a file, zeros where it is missing."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return 0, 0
    return status.st_size, status.st_mtime_ns
