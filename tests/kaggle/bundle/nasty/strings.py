from __future__ import annotations

import string
import textwrap

GRÜSSE = "größe ; from nasty.alpha import area"
LOOKS = """
from nasty.alpha import nothing
import nasty.alpha
# ======== nasty.fake ========
if __name__ == "__main__":


    raise SystemExit
"""
HASH = "# not a comment \
import os"


def text_facts(name="import sys"):
    # from nasty.alpha import area
    return [len(GRÜSSE), textwrap.dedent(LOOKS).count("import"), f"{name!r:>12}", HASH, string.digits, LOOKS]
