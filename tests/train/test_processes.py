"""Several processes: the same gradients as one, and a run that survives the death of one of them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import set_seed
from safetensors.torch import load_file
from torch import distributed, multiprocessing, nn

from histofold.schema.experiment import LossConfig
from histofold.schema.parse import to_toml
from histofold.train.loop import train_fold
from histofold.train.losses.total import segmentation_loss
from histofold.train.processes import join_group, sum_over_processes
from small_runs import TinyNet, same_tensors, small_dataset, small_experiment, small_setup, use_tiny_nets

TESTS = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{TESTS}:{os.environ.get('PYTHONPATH', '')}"}
TINY_PROGRAM = """
import sys
from histofold.commands.main import main
from histofold.train import run
from small_runs import TinyNet
from torch import nn
run.build_model = lambda *_: TinyNet(lambda channels: nn.GroupNorm(2, channels))
sys.exit(main(sys.argv[1:]))
"""
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
EVERY_JOINT_TERM = LossConfig(bce=0.5, dice=0.5, tversky=0.3, focal=0.2)
ONE_STEP = {"optimizer": "sgd", "schedule": "constant", "lr": 1.0, "warmup": 0.0, "clip": 0.0, "ema": 0.0}


def half_of_a_step(rank, port_file, results):
    """A batch in two halves through two processes; writes the gradients of the first."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{port_file}", rank=rank, world_size=2)
    accelerator = SimpleNamespace(num_processes=2, device=torch.device("cpu"))
    net = double_net()
    images_NCHW, bits_NHW = examples()
    half = slice(2 * rank, 2 * rank + 2)
    parallel = nn.parallel.DistributedDataParallel(net)
    logits = parallel(images_NCHW[half])
    across = sum_over_processes(accelerator)
    segmentation_loss(logits, bits_NHW[half], EVERY_JOINT_TERM, across=across)["loss"].backward()
    if rank == 0:
        gradients = {name: parameter.grad.clone() for name, parameter in net.named_parameters()}
        torch.save(gradients, results)
    distributed.destroy_process_group()


def examples():
    """Four examples with unequal masks, one of them in part ignored, so that no mean of means is the joint mean."""
    generator = torch.Generator().manual_seed(3)
    images_NCHW = torch.rand(4, 3, 64, 32, generator=generator, dtype=torch.float64)
    bits_NHW = (images_NCHW.mean(1) > torch.tensor([0.3, 0.6, 0.5, 2.0])[:, None, None]).to(torch.uint8)
    bits_NHW[1, :40] |= 128
    return images_NCHW, bits_NHW


def grouped(channels):
    """Normalisation that knows one image alone: batch normalisation joins no processes on a CPU."""
    return nn.GroupNorm(2, channels)


def double_net():
    """In float64, since in float32 the rounding that two orders of summing differ in turns ReLUs over."""
    torch.manual_seed(0)
    return TinyNet(grouped).double()


def test_two_processes_have_the_gradients_of_the_whole_batch(tmp_path):
    multiprocessing.spawn(half_of_a_step, (tmp_path / "meet", tmp_path / "results.pt"), 2)
    gradients = torch.load(tmp_path / "results.pt", weights_only=True)
    net = double_net()
    images_NCHW, bits_NHW = examples()
    segmentation_loss(net(images_NCHW), bits_NHW, EVERY_JOINT_TERM)["loss"].backward()
    for name, parameter in net.named_parameters():
        assert torch.allclose(gradients[name], parameter.grad, rtol=1e-9, atol=1e-12), name


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small_dataset(tmp_path_factory.mktemp("ddp"))


def arguments(folder, dataset, **sections):
    """The program that trains a tiny network on fold 0 in a folder, and its arguments, without the interpreter."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "program.py").write_text(TINY_PROGRAM)
    experiment = small_experiment(dataset, **sections)
    (folder / "small.toml").write_text(to_toml(experiment))
    return [str(folder / "program.py"), "train", str(folder / "small.toml"), "--runs", str(folder), "--fold", "0"]


def weights(folder):
    return load_file(folder / "small" / "fold0" / "model.safetensors")


@pytest.mark.slow
def test_a_step_of_two_processes_is_that_of_one(dataset, tmp_path, monkeypatch):
    """Plain SGD with a rate of 1: the weights differ from the first ones by the gradient."""
    sections = {"optim": ONE_STEP, "loss": {"pixel_size": 0.1}}
    train = {"steps": 1, "accumulate": 2, "precision": "fp32"}  # the law is about sums, which bf16 would round
    use_tiny_nets(monkeypatch, grouped)
    train_fold(small_setup(dataset, tmp_path / "one", train={**train, "batch": 4}, **sections), False)
    two = arguments(tmp_path / "two", dataset, train={**train, "batch": 2}, **sections)
    subprocess.run([*TORCHRUN, *two], env=ENVIRONMENT, check=True, capture_output=True)
    first, second = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert max((first[name] - second[name]).abs().max().item() for name in first) < 1e-5
    set_seed(0)
    begun = TinyNet(grouped).state_dict()
    assert max((first[name] - begun[name]).abs().max().item() for name in first) > 1e-3, "there were gradients"


@pytest.mark.slow
def test_a_killed_process_costs_no_bit(dataset, tmp_path):
    sections = {"train": {"steps": 12, "save_every": 3}, "optim": {"schedule": "plateau", "plateau_patience": 0}}
    whole = arguments(tmp_path / "whole", dataset, **sections)
    subprocess.run([*TORCHRUN, *whole], env=ENVIRONMENT, check=True, capture_output=True)
    cut = arguments(tmp_path / "cut", dataset, **sections)
    group = subprocess.Popen(
        [*TORCHRUN, "--max-restarts=3", *cut], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 240
    states = tmp_path / "cut" / "small" / "fold0"
    while not list(states.glob("state_*.pt")):
        assert group.poll() is None, "ended before its first state"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    victims = children(group.pid)
    assert len(victims) == 2
    os.kill(victims[1], signal.SIGKILL)
    assert group.wait(timeout=240) == 0
    assert same_tensors(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


def children(pid):
    """The processes that a process has started, oldest first."""
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


JOIN_PROGRAM = """
import os, signal, time, torch
from histofold.train.processes import join_group, restarts
rank = int(os.environ["RANK"])
# Each time another one comes late, and could find the address that the other had before.
time.sleep(1.5 * ((rank + restarts()) % 2))
join_group(torch.device("cpu"))
torch.distributed.barrier()
if restarts() < 2 and rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
torch.distributed.barrier()
"""


@pytest.mark.slow
def test_processes_that_start_again_find_each_other(tmp_path):
    (tmp_path / "program.py").write_text(JOIN_PROGRAM)
    words = [*TORCHRUN, "--max-restarts=2", str(tmp_path / "program.py")]
    group = subprocess.run(words, env=ENVIRONMENT, capture_output=True, timeout=240, check=False)
    assert group.returncode == 0, group.stderr.decode()[-2000:]


def test_a_process_alone_joins_nobody(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    join_group(torch.device("cpu"))
    assert not distributed.is_initialized()
