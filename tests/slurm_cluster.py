"""A real SLURM of one node on the loopback, from Debian's packages, that leaves nothing behind.

munged, slurmctld, slurmd and all jobs live in a mount and a process name space of their own: only there does our
configuration lie over /etc/slurm, and when the first process of that name space ends, the kernel ends all the others.
Two GPUs are pretended: two device files that SLURM counts and hands out by `CUDA_VISIBLE_DEVICES`.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "unshare", "nsenter", "mknod")
CPUS, MEMORY_MB, NUM_GPUS = 4, 16000, 2  # what the node says of itself; `config_overrides` lets it
START_SECONDS = 60

CONFIGURATION = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_min_interval=0
ReturnToService=2
KillWait={kill_wait}
MinJobAge=300
JobRequeue=1
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""

START = """
set -e
mount --bind {folder}/etc /etc/slurm
munged --force --key-file {folder}/munge.key --socket {folder}/munge.socket --pid-file {folder}/munged.pid \\
  --log-file {folder}/munged.log --seed-file {folder}/munged.seed
slurmctld -D &
slurmd -D -N {host} &
wait
"""


class Cluster:
    """`run` and `start` put a command where SLURM is; `stop` ends everything."""

    def __init__(self, kill_wait: int = 20) -> None:
        """kill_wait: seconds between the SIGTERM and the SIGKILL of a job that is cancelled or requeued."""
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # a socket's path must be short
        self.host = socket.gethostname().split(".")[0]
        for name in ("etc", "state", "spool", "dev"):
            (self.folder / name).mkdir()
        for index in range(NUM_GPUS):
            subprocess.run(["mknod", str(self.folder / "dev" / f"gpu{index}"), "c", "1", "3"], check=True)
        self.folder.chmod(0o755)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        facts = {"folder": self.folder, "host": self.host, "kill_wait": kill_wait}
        facts |= {"cpus": CPUS, "memory": MEMORY_MB, "gpus": NUM_GPUS}
        facts |= dict(zip(("controller_port", "node_port"), free_ports(2), strict=True))
        (self.folder / "etc" / "slurm.conf").write_text(CONFIGURATION.format(**facts))
        files = f"{self.folder}/dev/gpu[0-{NUM_GPUS - 1}]"
        (self.folder / "etc" / "gres.conf").write_text(f"NodeName={self.host} Name=gpu File={files}\n")
        spaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        with (self.folder / "daemons.log").open("wb") as log:
            self.process = subprocess.Popen(
                [*spaces, "bash", "-c", START.format(**facts)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            self.wait_until_idle()
        except BaseException:
            self.stop()
            raise

    def wait_until_idle(self) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            first = children_of(self.process.pid)
            if first and self.run("sinfo", "--noheader", "--format=%T").stdout.strip() == "idle":
                return
            time.sleep(0.2)
        logs = "\n".join(f"--- {log.name}\n{log.read_text()[-2000:]}" for log in sorted(self.folder.glob("*.log")))
        raise RuntimeError(f"SLURM did not start in {START_SECONDS} s\n{logs}")

    def inside(self, *words: str) -> list[str]:
        """The same command, in the cluster's name spaces."""
        return ["nsenter", f"--target={children_of(self.process.pid)[0]}", "--mount", "--pid", "--wd=.", "--", *words]

    def run(self, *words: str, timeout: float = 120, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.inside(*words), capture_output=True, text=True, timeout=timeout, **options)  # type: ignore[call-overload]

    def start(self, *words: str, said: Path, **options: object) -> "Command":
        with said.open("ab") as log:
            return Command(subprocess.Popen(self.inside(*words), stdout=log, stderr=log, **options))  # type: ignore[call-overload]

    def jobs(self) -> list[str]:
        """`id state name` of every job that has not ended."""
        return self.run("squeue", "--noheader", "--format=%i %T %j").stdout.splitlines()

    def cpu_seconds(self) -> float:
        """Of the daemons, of all that runs in their name space, and of what has ended there."""
        ticks = 0
        for pid in [self.process.pid, *processes_of(self.process.pid)]:
            with suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                ticks += sum(int(field) for field in fields[11:15])  # of itself and of its ended children
        return ticks / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        for first in children_of(self.process.pid):
            os.kill(first, signal.SIGKILL)  # the first process of a name space takes all others with it
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class Command:
    """A command in the cluster: `nsenter` waits for it, signals go to the command itself."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process

    def send(self, number: int) -> None:
        for pid in children_of(self.process.pid):
            os.kill(pid, number)

    def wait(self, seconds: float) -> int:
        return self.process.wait(seconds)

    def end(self) -> None:
        """Kill it if it still runs: for the end of a test that failed."""
        if self.process.poll() is None:
            self.send(signal.SIGKILL)
            self.process.wait()


def children_of(pid: int) -> list[int]:
    """Of all its threads: SLURM's daemons start processes from any."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(word) for word in path.read_text().split()]
    return found


def processes_of(pid: int) -> dict[int, list[str]]:
    """Process id -> command line of a process's descendants; jobs too, whose parent is the first of the name space."""
    found = {}
    for child in children_of(pid):
        with suppress(OSError):
            found[child] = Path(f"/proc/{child}/cmdline").read_text().rstrip("\0").split("\0")
        found |= processes_of(child)
    return found


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def start_or_skip(kill_wait: int = 20) -> Cluster:
    """A running cluster; the test is skipped, with the reason, where one cannot be."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("SLURM's daemons need root")
    allowed = subprocess.run(["unshare", "--mount", "--pid", "--fork", "--mount-proc", "true"], capture_output=True)
    if allowed.returncode != 0:
        pytest.skip(f"no name space of its own here: {allowed.stderr.decode().strip()}")
    return Cluster(kill_wait)
