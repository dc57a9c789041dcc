"""Training over several nodes: network namespaces, each with a torchrun of its own, that share a folder."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from histofold.commands.main import main
from histofold.schema.parse import to_toml
from histofold.train import run
from small_runs import TinyNet, same_tensors, small_dataset, small_experiment
from train.test_processes import ENVIRONMENT, LONG_RUN, children, grouped, weights

pytestmark = pytest.mark.slow

PORT = 29417


def train_tiny_net(folder):
    """What torchrun starts on each node. Several nodes count their starts apart, so that --resume is theirs to give."""
    run.build_network = lambda *_: TinyNet(grouped)
    assert main(["train", str(folder / "long.toml"), "--runs", str(folder), "--fold", "0", "--resume"]) == 0


PROGRAM = """
import sys
from pathlib import Path
from train.test_nodes import train_tiny_net
train_tiny_net(Path(sys.argv[1]))
"""


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
    folder.mkdir()
    (folder / "long.toml").write_text(to_toml(experiment))
    (folder / "program.py").write_text(PROGRAM)
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


def wait_for(agents):
    for agent in agents:
        assert agent.wait(timeout=420) == 0


def test_a_process_killed_on_one_of_two_nodes_costs_no_bit(tmp_path):
    """Both nodes meet again, and go on from the last state."""
    experiment = small_experiment(small_dataset(tmp_path), **LONG_RUN)
    with two_nodes() as nodes:
        wait_for(start_agents(nodes, tmp_path / "whole", experiment))
        agents = start_agents(nodes, tmp_path / "killed", experiment)
        states, deadline = tmp_path / "killed" / "long" / "fold0", time.monotonic() + 420
        while not list(states.glob("state_*.pt")):
            assert agents[1].poll() is None, "ended before its first state"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (victim,) = children(agents[1].pid)
        os.kill(victim, signal.SIGKILL)
        wait_for(agents)
    assert "exitcode: -9" in (tmp_path / "killed" / "node1.log").read_text(), "it was at work when it was killed"
    assert same_tensors(weights(tmp_path / "whole", "long"), weights(tmp_path / "killed", "long"))
