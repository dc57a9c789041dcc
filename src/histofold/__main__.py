"""`python -m histofold VERB ...` is `histofold VERB ...`."""

import sys

from histofold.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
