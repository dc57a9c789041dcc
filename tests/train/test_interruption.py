"""Ctrl-C and SIGTERM: the step is finished and saved, and the run that goes on is the same to the bit."""

import os
import signal

import pytest
from safetensors.torch import load_file

from histofold.commands.main import run_verb
from histofold.core.faults import InputError
from histofold.train import loop
from histofold.train.fold import prepare_fold
from histofold.train.interruption import Interrupted, Interruption, saved_words
from histofold.train.loop import train_fold
from histofold.train.processes import alone_at
from small_runs import same_tensors, small_dataset, small_experiment, small_setup, use_tiny_nets


@pytest.fixture(autouse=True)
def interruptible():
    """As in a terminal: a process that a shell has put into the background ignores interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small_dataset(tmp_path_factory.mktemp("interrupted"))


def interrupt_in_step(monkeypatch, number, step):
    """Have a signal arrive in the midst of a step."""
    whole = loop.training_step

    def interrupted(run, setup, batches):
        if run.step + 1 == step:
            os.kill(os.getpid(), number)
        return whole(run, setup, batches)

    monkeypatch.setattr(loop, "training_step", interrupted)


@pytest.mark.parametrize(
    ("number", "step", "words"),
    [
        (signal.SIGINT, 2, "fold 0: saved at step 2, it goes on there"),
        (signal.SIGTERM, 5, "fold 0: saved at step 5, it goes on there"),
        (
            signal.SIGINT,
            3,
            "fold 0: nothing is saved yet, it starts again at step 0",
        ),  # its validation is still to come
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_weights(dataset, tmp_path, monkeypatch, number, step, words):
    use_tiny_nets(monkeypatch)
    train = {"save_every": 10}
    whole, cut = (small_setup(dataset, tmp_path / name, train=train) for name in ("whole", "cut"))
    train_fold(whole, resume=False)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        interrupt_in_step(patch, number, step)
        with pytest.raises(Interrupted) as caught:
            train_fold(cut, resume=False)
    assert (str(caught.value), caught.value.number) == (words, number)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    train_fold(cut, resume=True)
    assert same_tensors(*(load_file(setup.folder / "model.safetensors") for setup in (whole, cut)))


def test_a_fold_is_trained_by_one_process_at_a_time_and_is_free_when_that_one_is_killed(dataset, tmp_path, monkeypatch):
    use_tiny_nets(monkeypatch)
    held, other = (prepare_fold(small_experiment(dataset), "small", tmp_path, fold, None) for fold in (0, 1))
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        with alone_at(held.folder.parent, held.fold):
            os.write(told, b"!")
            signal.pause()
    os.read(ready, 1)
    with pytest.raises(InputError, match=r"fold 0: .*another process trains this fold; wait for it"):
        train_fold(held, resume=True)
    assert train_fold(other, resume=False) is not None
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert train_fold(held, resume=True) is not None


def test_a_second_interrupt_and_one_between_steps_come_at_once():
    with Interruption() as interruption:
        with interruption.held_back():
            os.kill(os.getpid(), signal.SIGTERM)
            assert interruption.number == signal.SIGTERM
            with pytest.raises(Interrupted):
                os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGINT)


def test_what_fails_after_an_interrupt_is_the_interrupt_and_else_itself():
    with Interruption() as interruption:
        with pytest.raises(RuntimeError, match="by itself"), interruption.held_back():
            raise RuntimeError("by itself")
        with pytest.raises(Interrupted), interruption.held_back():
            os.kill(os.getpid(), signal.SIGINT)
            raise RuntimeError("a worker has gone")


def test_words_and_status_of_an_interrupted_verb(tmp_path, monkeypatch, capsys):
    assert saved_words(tmp_path, 1) == "fold 1: nothing is saved yet, it starts again at step 0"
    for step in (90, 1200):
        (tmp_path / f"state_{step:07d}.pt").touch()

    def interrupted(arguments):
        raise Interrupted(signal.SIGTERM, saved_words(tmp_path, 1))

    for verb in ("train", "demo"):
        monkeypatch.setattr(f"histofold.commands.{verb}.run", interrupted)
    assert run_verb("demo", []) == 128 + signal.SIGTERM
    assert "interrupted; fold 1: saved at step 1200, it goes on there; run it again to go on" in capsys.readouterr().err
    assert run_verb("train", []) == 128 + signal.SIGTERM
    assert "interrupted; fold 1: saved at step 1200, it goes on there with --resume" in capsys.readouterr().err


def test_an_interruption_that_a_library_renamed_is_one():
    with pytest.raises(Interrupted) as caught, Interruption():
        try:
            raise Interrupted(signal.SIGTERM)
        except KeyboardInterrupt:
            raise RuntimeError("a file cannot be written")  # noqa: B904 -- as torch.save does
    assert caught.value.number == signal.SIGTERM
    with pytest.raises(RuntimeError, match="by itself"), Interruption():
        raise RuntimeError("by itself")
