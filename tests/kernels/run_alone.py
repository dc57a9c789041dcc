"""Run a kernel as Kaggle would: only packages of its image importable, no network, nothing of this project.

`python -I run_alone.py kernel.py`: smp comes from a wheel on the path or not at all.
"""

import importlib.machinery
import runpy
import socket
import sys

# What the image has beside these (scikit-learn, albumentations, ...) the bundler keeps out of the kernel itself.
BLOCKED = {"histoseg", "imagecodecs", "tyro", "zarr", "monai", "pycocotools"}
FROM_WHEELS = {"segmentation_models_pytorch"}


class KaggleImage:
    """Refuses what the image lacks."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        top = name.partition(".")[0]
        if top in BLOCKED:
            raise ModuleNotFoundError(f"{name} is not in Kaggle's image", name=name)
        if name in FROM_WHEELS:
            wheels = [entry for entry in sys.path if entry.endswith(".whl")]
            spec = importlib.machinery.PathFinder.find_spec(name, wheels)
            if spec is None:
                raise ModuleNotFoundError(f"{name} is not in Kaggle's image, and in no wheel on the path", name=name)
            return spec
        return None


def refuse(*arguments, **options):
    raise OSError("no network here")


sys.meta_path.insert(0, KaggleImage)
socket.socket.connect = refuse
socket.create_connection = refuse
socket.getaddrinfo = refuse
if __name__ == "__main__":
    runpy.run_path(sys.argv[1], run_name="__main__")
