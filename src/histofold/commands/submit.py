"""`histofold submit C`: weights and kernel to Kaggle, and the score back."""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from histofold.commands import parse_options
from histofold.kaggle.submit.request import SubmitRequest


@dataclass(frozen=True, kw_only=True)
class SubmitOptions(SubmitRequest):
    """Upload the weights, run the kernel, fetch its output, submit it, and note the score in submissions.jsonl.

    Every finished step is written down: the same command, started again, goes on where it stopped. Nothing is uploaded
    when a check fails. Kaggle's own client is used, and reads the credentials: pip install -e '.[kaggle]'.
    """

    competition: tyro.conf.Positional[str]
    """The competition."""
    dry_run: bool = False
    """Check everything and print every command that would be run; ask nobody, write nothing."""


def run(arguments: list[str]) -> int:
    """The verb."""
    options = parse_options(SubmitOptions, "submit", arguments)
    from histofold.kaggle.submit.run import planned_commands, submit

    if options.dry_run:
        print("\n".join(planned_commands(options)))
        return 0
    print(submit(options))
    from histofold.trust.ledger import write_ledger

    write_ledger(options.out.resolve().parent)
    return 0
