"""Several processes, of one machine or of two: the same gradients as one, and a run that survives the death of one."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import set_seed
from safetensors.torch import load_file
from torch import distributed, nn

from histofold.commands.main import main
from histofold.schema.experiment import LossConfig
from histofold.schema.parse import to_toml
from histofold.train import run
from histofold.train.loop import train_fold
from histofold.train.losses.total import segmentation_loss
from histofold.train.processes import join_group, restarts, sum_over_processes
from small_runs import TinyNet, same_tensors, small_dataset, small_experiment, small_setup, use_tiny_nets

TESTS = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{TESTS}:{os.environ.get('PYTHONPATH', '')}"}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
EVERY_JOINT_TERM = LossConfig(bce=0.5, dice=0.5, tversky=0.3, focal=0.2)
ONE_STEP = {"optimizer": "sgd", "schedule": "constant", "lr": 1.0, "warmup": 0.0, "clip": 0.0, "ema": 0.0}
JOINT_STEP = {"optim": ONE_STEP, "loss": {"pixel_size": 0.1}}
"""Plain SGD with a rate of 1: the weights differ from the first ones by the gradient."""
LONG_RUN = {"train": {"steps": 12, "save_every": 3}, "optim": {"schedule": "plateau", "plateau_patience": 0}}


def train_settings(batch):
    """Of `JOINT_STEP` in one process or two; the law is about sums, which bf16 would round."""
    return {"steps": 1, "accumulate": 2, "precision": "fp32", "batch": batch}


def train_tiny_nets(folder):
    """What torchrun starts: trains by each experiment that lies in a folder, one after the other."""
    # At each start another one comes late, and could find the address that the other had before.
    time.sleep(1.5 * ((int(os.environ["RANK"]) + restarts()) % 2))
    run.build_network = lambda *_: TinyNet(grouped)
    for path in sorted(folder.glob("*.toml")):
        assert main(["train", str(path), "--runs", str(folder), "--fold", "0"]) == 0


def gradients_of_half(folder):
    """A batch in two halves through two processes; the first one writes its gradients."""
    rank = distributed.get_rank()
    accelerator = SimpleNamespace(num_processes=2, device=torch.device("cpu"))
    net = double_net()
    images_NCHW, bits_NHW = examples()
    half = slice(2 * rank, 2 * rank + 2)
    parallel = nn.parallel.DistributedDataParallel(net)
    logits = parallel(images_NCHW[half])
    across = sum_over_processes(accelerator)
    segmentation_loss(logits, bits_NHW[half], EVERY_JOINT_TERM, across=across)["loss"].backward()
    if rank == 0:
        torch.save({name: parameter.grad for name, parameter in net.named_parameters()}, folder / "gradients.pt")


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


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small_dataset(tmp_path_factory.mktemp("ddp"))


PROGRAM = """
import sys
from pathlib import Path
from train.test_processes import gradients_of_half, train_tiny_nets
folder = Path(sys.argv[1])
train_tiny_nets(folder)
if "--gradients" in sys.argv:
    gradients_of_half(folder)
"""


def words(folder, **experiments):
    """The program that torchrun starts and its arguments, for experiments by name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "program.py").write_text(PROGRAM)
    for name, experiment in experiments.items():
        (folder / f"{name}.toml").write_text(to_toml(experiment))
    return [str(folder / "program.py"), str(folder)]


@pytest.fixture(scope="module")
def by_two(dataset, tmp_path_factory):
    """What two processes have left that nobody disturbed: one step, a longer run, and the gradients of a batch."""
    folder = tmp_path_factory.mktemp("two")
    step = small_experiment(dataset, train=train_settings(2), **JOINT_STEP)
    program = words(folder, a_step=step, long=small_experiment(dataset, **LONG_RUN))
    subprocess.run([*TORCHRUN, *program, "--gradients"], env=ENVIRONMENT, check=True, capture_output=True)
    return folder


def weights(folder, name):
    return load_file(folder / name / "fold0" / "model.safetensors")


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_the_whole_batch(by_two):
    gradients = torch.load(by_two / "gradients.pt", weights_only=True)
    net = double_net()
    images_NCHW, bits_NHW = examples()
    segmentation_loss(net(images_NCHW), bits_NHW, EVERY_JOINT_TERM)["loss"].backward()
    for name, parameter in net.named_parameters():
        assert torch.allclose(gradients[name], parameter.grad, rtol=1e-9, atol=1e-12), name


@pytest.mark.slow
def test_a_step_of_two_processes_is_that_of_one(by_two, dataset, tmp_path, monkeypatch):
    use_tiny_nets(monkeypatch, grouped)
    train_fold(small_setup(dataset, tmp_path, train=train_settings(4), **JOINT_STEP), False)
    first, second = weights(tmp_path, "small"), weights(by_two, "a_step")
    assert max((first[name] - second[name]).abs().max().item() for name in first) < 1e-5
    set_seed(0)
    begun = TinyNet(grouped).state_dict()
    assert max((first[name] - begun[name]).abs().max().item() for name in first) > 1e-3, "there were gradients"


@pytest.mark.slow
def test_a_killed_process_costs_no_bit(by_two, dataset, tmp_path):
    """Both are started again, find each other though another one comes late, and go on from the last state."""
    program = words(tmp_path, long=small_experiment(dataset, **LONG_RUN))
    group = subprocess.Popen(
        [*TORCHRUN, "--max-restarts=3", *program],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(tmp_path / "long" / "fold0", "state_*.pt", group, 240)
    victims = children(group.pid)
    assert len(victims) == 2
    os.kill(victims[1], signal.SIGKILL)
    assert group.wait(timeout=240) == 0
    assert same_tensors(weights(by_two, "long"), weights(tmp_path, "long"))


SLOW_PROGRAM = """
import os, sys, time
from pathlib import Path
from histofold.commands.main import main
from histofold.train import loop, run
from small_runs import TinyNet
from train.test_processes import grouped
folder, whole = Path(sys.argv[1]), loop.training_step
def slowly(state, setup, batches):
    if os.environ["RANK"] == "0":  # the other may be a step ahead of the one that saves
        (folder / f"step{state.step}").touch()
    time.sleep(0.2)
    return whole(state, setup, batches)
loop.training_step, run.build_network = slowly, lambda *_: TinyNet(grouped)
sys.exit(main(["train", str(folder / "long.toml"), "--runs", str(folder), "--fold", "0", "--resume"]))
"""


@pytest.mark.slow
def test_processes_that_are_told_to_end_save_first_and_go_on_to_the_same_weights(by_two, dataset, tmp_path):
    rarely = {**LONG_RUN, "train": {**LONG_RUN["train"], "save_every": 100}}
    words(tmp_path, long=small_experiment(dataset, **rarely))
    (tmp_path / "program.py").write_text(SLOW_PROGRAM)
    line = [*TORCHRUN, str(tmp_path / "program.py"), str(tmp_path)]
    group = subprocess.Popen(line, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(tmp_path, "step4", group, 240)
    group.terminate()
    assert group.wait(timeout=120) != 0
    (state,) = (tmp_path / "long" / "fold0").glob("state_*.pt")
    assert 4 < int(state.stem.removeprefix("state_")) < 12
    subprocess.run(line, env=ENVIRONMENT, check=True, capture_output=True)
    assert same_tensors(weights(by_two, "long"), weights(tmp_path, "long"))


def wait_for(folder, pattern, process, seconds):
    """Until a process has made a file."""
    deadline = time.monotonic() + seconds
    while not list(folder.glob(pattern)):
        assert process.poll() is None, f"ended before its first {pattern}"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def children(pid):
    """The processes that a process has started, oldest first."""
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_process_alone_joins_nobody(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    join_group(torch.device("cpu"))
    assert not distributed.is_initialized()


PORT = 29417
ON_A_NODE = """
import sys
from pathlib import Path
from train.test_processes import train_on_a_node
train_on_a_node(Path(sys.argv[1]))
"""


def train_on_a_node(folder):
    """What torchrun starts on each node. Several nodes count their starts apart, so that --resume is theirs to give."""
    run.build_network = lambda *_: TinyNet(grouped)
    assert main(["train", str(folder / "long.toml"), "--runs", str(folder), "--fold", "0", "--resume"]) == 0


@contextmanager
def two_nodes():
    """Two network namespaces with a wire between them, as the words that a command in each begins with."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and iproute2")
    names = [f"histofold{os.getpid()}{node}" for node in "ab"]
    made = subprocess.run(["ip", "netns", "add", names[0]], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no network namespaces here: {made.stderr.strip()}")
    try:
        ip("netns", "add", names[1])
        ip("-n", names[0], "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", names[1])
        for number, name in enumerate(names):
            ip("-n", name, "addr", "add", f"{address(number)}/24", "dev", "wire")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "wire", "up")
        yield [["ip", "netns", "exec", name] for name in names]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True)


def address(node):
    return f"10.213.7.{node + 1}"


def start_agents(nodes, folder, experiment):
    """A torchrun on each node, and both have one process."""
    (folder / "long.toml").write_text(to_toml(experiment))
    (folder / "program.py").write_text(ON_A_NODE)
    environment = {**ENVIRONMENT, "GLOO_SOCKET_IFNAME": "wire", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    words = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--max-restarts=3"]
    words += ["--rdzv-backend=c10d", f"--rdzv-endpoint={address(0)}:{PORT}", "--rdzv-id=nodes"]
    agents = []
    for number, node in enumerate(nodes):
        place = [f"--local-addr={address(number)}", f"--rdzv-conf=is_host={str(number == 0).lower()}"]
        command = [*node, *words, *place, str(folder / "program.py"), str(folder)]
        log = (folder / f"node{number}.log").open("w")
        agents.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        log.close()
    return agents


@pytest.mark.slow
def test_a_process_killed_on_one_of_two_nodes_costs_no_bit(by_two, dataset, tmp_path):
    """Each node is a network namespace with a torchrun of its own; both meet again and go on from the last state."""
    with two_nodes() as nodes:
        agents = start_agents(nodes, tmp_path, small_experiment(dataset, **LONG_RUN))
        wait_for(tmp_path / "long" / "fold0", "state_*.pt", agents[1], 420)
        (victim,) = children(agents[1].pid)
        os.kill(victim, signal.SIGKILL)
        for agent in agents:
            assert agent.wait(timeout=420) == 0
    assert "exitcode: -9" in (tmp_path / "node1.log").read_text(), "it was at work when it was killed"
    assert same_tensors(weights(by_two, "long"), weights(tmp_path, "long"))
