"""From the raw competition folder to folds and tiles: `python build_dataset.py --data DIR`."""

import sys

from histofold.commands.main import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("build", sys.argv[1:]))
