"""A file that a killed process has left half-written."""

import os
import signal

from histofold.schema.files import written_whole


def leave_half_written(path):
    """Kill a process that writes a file; what it has written lies beside it under its temporary name."""
    child = os.fork()
    if child == 0:
        with written_whole(path) as temporary:
            temporary.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
