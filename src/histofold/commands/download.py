"""`histofold download C`: a competition's files from Kaggle, as its raw folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from histofold.commands import parse_options


@dataclass(frozen=True, kw_only=True)
class DownloadOptions:
    """Fetch the files of a competition whose rules you have accepted, and unpack them; called again, it goes on.

    Kaggle's own client is used, and reads the credentials: pip install -e '.[kaggle]'.
    """

    competition: tyro.conf.Positional[str]
    """The competition: hubmap_2022 or kidney_2020."""
    out: Path | None = None
    """The folder to make; raw/C where it is not given."""


def run(arguments: list[str]) -> int:
    """The verb."""
    options = parse_options(DownloadOptions, "download", arguments)
    from histofold.kaggle.download import download_competition

    folder = download_competition(options.competition, options.out or Path("raw") / options.competition)
    print(f"{options.competition}: {folder}; next: python build_dataset.py --data {folder}")
    return 0
