"""Run a kernel with what Kaggle's image has: no package that it lacks, no network, nothing of this project.

`python -I simulate_alone.py kernel.py`. The file stands alone: it imports nothing but the standard library, since the
project itself is among what is refused.
"""

from __future__ import annotations

import importlib.machinery
import runpy
import socket
import sys
from collections.abc import Sequence

# What the image has beside these (scikit-learn, albumentations, ...) the bundler keeps out of the kernel itself.
BLOCKED = frozenset({"histofold", "imagecodecs", "tyro", "zarr", "monai", "pycocotools"})
FROM_WHEELS = frozenset({"segmentation_models_pytorch"})


class KaggleImage:
    """Refuses what the image lacks; smp comes from a wheel on the path or not at all."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The answer of a finder: a specification, None for "ask the next one".

        Raises:
            ModuleNotFoundError: If the image has no such package.
        """
        top = name.partition(".")[0]
        if top in BLOCKED:
            raise ModuleNotFoundError(f"{name} is not in Kaggle's image", name=name)
        if name not in FROM_WHEELS:
            return None
        wheels = [entry for entry in sys.path if entry.endswith(".whl")]
        spec = importlib.machinery.PathFinder.find_spec(name, wheels)
        if spec is None:
            raise ModuleNotFoundError(f"{name} is not in Kaggle's image, and in no wheel on the path", name=name)
        return spec


def refuse_network(*arguments: object, **options: object) -> None:
    """What stands in for every way to open a connection.

    Raises:
        OSError: Always.
    """
    raise OSError("no network here")


def run_alone(path: str) -> None:
    """Run a file as `__main__` in this process, which stays as bare afterwards."""
    sys.meta_path.insert(0, KaggleImage)
    socket.socket.connect = refuse_network  # type: ignore[method-assign]
    socket.create_connection = refuse_network  # type: ignore[assignment]
    socket.getaddrinfo = refuse_network  # type: ignore[assignment]
    runpy.run_path(path, run_name="__main__")


if __name__ == "__main__":
    run_alone(sys.argv[1])
