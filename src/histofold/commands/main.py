"""The command line: `histofold VERB ...`, one module a verb, loaded only when it is called."""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import signal
import sys
import traceback

VERBS = {
    "build": "folds, tiles and index of a competition folder (also: python build_dataset.py)",
    "train": "train the folds of an experiment",
    "sweep": "search over the settings of an experiment",
    "evaluate": "out-of-fold score, thresholds and report of a run",
    "package": "weights, manifest and wheel, ready to upload",
    "kernel": "write the self-contained inference kernel of a competition",
    "predict": "predict a folder and write the submission, or one shard of it",
    "merge": "join the shards of a submission",
    "simulate": "a fake hidden set through the packaged kernel",
    "check": "list every fault of a dataset, weights, a submission or a kernel; explain a log",
    "download": "a competition's files from Kaggle, unpacked as its raw folder",
    "submit": "weights, kernel and submission to Kaggle",
    "demo": "the whole chain, on synthetic slides or on a folder",
}
MODULES = {"build": "build_dataset"}


def main(argv: list[str] | None = None) -> int:
    """Run a verb.

    Returns:
        0 done, 2 the input is at fault (said in words), 1 our own fault (with a traceback).
    """
    arguments = sys.argv[1:] if argv is None else argv
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("histofold").setLevel(logging.INFO)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from histofold import __version__

        print(__version__)
        return 0
    if arguments[0] not in VERBS:
        near = difflib.get_close_matches(arguments[0], VERBS, n=1)
        hint = f": did you mean {near[0]!r}?" if near else ""
        print(f"histofold: unknown verb {arguments[0]!r}{hint}\n\n{usage()}", file=sys.stderr)
        return 2
    return run_verb(arguments[0], arguments[1:])


def usage() -> str:
    """All verbs, a line each."""
    lines = [f"  {verb:<10}{text}" for verb, text in VERBS.items()]
    return "usage: histofold VERB [--help] ...\n\n" + "\n".join(lines)


def run_verb(verb: str, arguments: list[str]) -> int:
    """Load a verb's module and run it, turning faults of the input into words."""
    from histofold.core.faults import ImageError, InputError
    from histofold.schema.files import disk_fault

    # Threads that wait must sleep, not spin: beside any other busy process a spinning pool slows training several
    # times. But some microseconds of spinning are cheaper than a sleep between two small layers: a tenth of a step of
    # small crops. It must be set before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # What Apple's GPU cannot do, the CPU does, instead of an error; likewise.
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    # Where a library does not say so itself, it would have torch.load run what a file of weights holds.
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
    try:
        module = importlib.import_module(f"histofold.commands.{MODULES.get(verb, verb)}")
        return module.run(arguments)
    except InputError as error:
        # A worker of a loader hands on the text of its whole traceback, whose last line holds the words.
        print(str(error).rpartition("histofold.core.faults.InputError: ")[2], file=sys.stderr)
        count = len(error.faults) or 1
        print(f"histofold {verb}: {count} fault{'s' * (count > 1)} in the input", file=sys.stderr)
        return 2
    except ImageError as error:
        print(f"{error}\nhistofold {verb}: an image cannot be read", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        return _interrupted(verb, stop)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else (0 if stop.code is None else 2)
    except Exception as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            return _interrupted(verb, error.__context__)  # of which a library made an error of its own
        of_disk = disk_fault(error)
        if of_disk is not None:
            print(f"{of_disk}\nhistofold {verb}: the disk is at fault", file=sys.stderr)
            return 2
        if isinstance(error, OSError) and error.filename is not None:
            name = error.filename2 or error.filename  # the second is what a file that was written aside is to become
            print(f"{name}: {error.strerror}: check the path, its permissions and the disk", file=sys.stderr)
            return 2
        if _is_out_of_memory(error):
            remedy = "lower train.batch, train.workers or --workers, close what else runs, or take a larger machine"
            print(f"memory does not suffice ({type(error).__name__}: {error}): {remedy}", file=sys.stderr)
            return 2
        traceback.print_exc()
        print(f"histofold {verb}: our own fault; please report the lines above", file=sys.stderr)
        return 1


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError):
        return True
    if "torch" not in sys.modules:  # nothing but torch makes errors of its own of it
        return False
    from histofold.predict.devices import is_out_of_memory

    return is_out_of_memory(error)


def _interrupted(verb: str, stop: KeyboardInterrupt) -> int:
    """Say what is saved and how to go on; gives the exit status that a shell has for the signal."""
    saved, again = str(stop), "run it again to go on"
    if verb == "train":
        saved, again = "", f"{saved} with --resume" if saved else "add --resume to go on from the last saved state"
    print(f"histofold {verb}: " + "; ".join(filter(None, ["interrupted", saved, again])), file=sys.stderr)
    return 128 + getattr(stop, "number", signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
