#!/usr/bin/env python3
"""A SLURM cluster on this one machine, for the tests: a controller, accounting, three nodes with two pretended GPUs each.

    sudo python slurm/cluster.py install             # Debian, Ubuntu: what is missing of SLURM, munge and MariaDB
    eval "$(python slurm/cluster.py start)"          # as root or as any user; sets SLURM_CONF for this shell
    sbatch --gres=gpu:1 --wrap 'echo $CUDA_VISIBLE_DEVICES'
    python slurm/cluster.py stop

Partitions: `main` (the default), and `low`, whose jobs `high` preempts and sends back to the queue. Everything lies in one
directory (--dir) and listens on 127.0.0.1 only. Needs nothing but Python.
"""

import argparse
import contextlib
import getpass
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PACKAGES = "slurmctld slurmd slurm-client munge slurmdbd slurm-wlm-mysql-plugin mariadb-server-core mariadb-client-core"
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "slurmdbd", "mariadbd", "mariadb-install-db")
PATIENCE = 40.0
"""Seconds that each daemon has to come up or to go."""

SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# cred_expire is also how long a job that is sent back to the queue stays there at least
AuthInfo=socket={dir}/run/munge,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPidFile={dir}/run/slurmctld.pid
SlurmctldLogFile={dir}/log/slurmctld.log
SlurmdPidFile={dir}/run/slurmd.%n.pid
SlurmdLogFile={dir}/log/slurmd.%n.log
SlurmdSpoolDir={dir}/spool/%n
StateSaveLocation={dir}/state
# containers have no cgroups to give away: no memory limit holds here, and cores are counted, not bound
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PriorityType=priority/basic
GresTypes=gpu
ReturnToService=2
JobRequeue=1
KillWait=5
MaxArraySize={array_size}
MaxJobCount=10000
MinJobAge={memory}
SlurmctldTimeout=10
SlurmdTimeout=15
InactiveLimit=0
MailProg=/bin/true
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={accounting}
AccountingStoragePass={dir}/run/munge
AccountingStorageTRES=gres/gpu
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=10 DefMemPerCPU=100 PreemptMode=OFF
PartitionName=low Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 DefMemPerCPU=100 PreemptMode=REQUEUE GraceTime=0
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=100 DefMemPerCPU=100 PreemptMode=OFF
"""

NODE = (
    "NodeName=n{number} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} SocketsPerBoard=1 "
    "CoresPerSocket={cpus} ThreadsPerCore=1 RealMemory=8000 Gres=gpu:{gpus} State=UNKNOWN"
)

ACCOUNTING_CONF = """\
AuthType=auth/munge
AuthInfo=socket={dir}/run/munge
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={accounting}
CommunicationParameters=NoInAddrAny
SlurmUser={user}
LogFile={dir}/log/slurmdbd.log
PidFile={dir}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database}
StorageUser=root
StorageLoc=accounting
"""


class Cluster:
    """One cluster in one directory.

    Arguments:
        directory: its path; short, since a socket's path has at most 107 characters.
        nodes, cpus, gpus: how many nodes, and what each claims to have.
        array_size: SLURM's MaxArraySize.
        memory: seconds for which the controller remembers a job that has ended; then only accounting knows.
    """

    def __init__(self, directory, nodes=3, cpus=4, gpus=2, array_size=1001, memory=300):
        self.directory = Path(directory).absolute()
        self.conf = self.directory / "etc" / "slurm.conf"
        self._processes = self.directory / "processes.json"
        self._started = []
        self._size = {"nodes": nodes, "cpus": cpus, "gpus": gpus, "array_size": array_size, "memory": memory}

    def start(self):
        """Bring everything up, waiting until all nodes are idle."""
        if lacking := missing():
            raise SystemExit(
                f"{', '.join(lacking)}: not installed; as root: python {sys.argv[0]} install, or apt-get install {PACKAGES}"
            )
        if self._processes.exists():
            raise SystemExit(f"{self.directory} has a cluster already; python {sys.argv[0]} stop ends it.")
        shutil.rmtree(self.directory, ignore_errors=True)
        for name in ("etc", "run", "log", "spool", "state", "devices", "database", "munge"):
            (self.directory / name).mkdir(parents=True)
        (self.directory / "munge").chmod(0o700)
        self._processes.write_text("[]")
        try:
            self._configure()
            self._start_all()
        except BaseException:
            self.stop()
            raise

    def _configure(self):
        size, ports = self._size, free_ports(3 + self._size["nodes"])
        names = {
            "dir": self.directory,
            "host": socket.gethostname().split(".")[0],
            "user": getpass.getuser(),
            "controller": ports[0],
            "accounting": ports[1],
            "database": ports[2],
        } | size
        self._database_port = ports[2]
        nodes = [NODE.format(number=i + 1, port=ports[3 + i], **names) for i in range(size["nodes"])]
        self.conf.write_text(SLURM_CONF.format(**names | {"nodes": "\n".join(nodes)}))
        accounting = self.conf.with_name("slurmdbd.conf")
        accounting.touch(0o600)
        accounting.write_text(ACCOUNTING_CONF.format(**names))
        for number in range(size["gpus"]):  # SLURM wants a device, and takes its last digits for the GPU's number
            (self.directory / "devices" / f"gpu{number}").symlink_to("/dev/null")
        if size["gpus"]:
            files = f"{self.directory}/devices/gpu[0-{size['gpus'] - 1}]"
            self.conf.with_name("gres.conf").write_text(
                f"AutoDetect=off\nNodeName=n[1-{size['nodes']}] Name=gpu File={files}\n"
            )
        key = self.directory / "munge" / "key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(1024))

    def _start_all(self):
        at = self.directory
        self._daemon(
            "munged",
            *("munged", "--foreground", "--force", f"--key-file={at}/munge/key", f"--socket={at}/run/munge"),
            *(f"--pid-file={at}/run/munged.pid", f"--log-file={at}/log/munged.log", f"--seed-file={at}/munge/seed"),
        )
        database = f"--datadir={at}/database"
        subprocess.run(
            [
                *("mariadb-install-db", "--no-defaults", database, "--auth-root-authentication-method=normal"),
                *("--skip-test-db", "--skip-name-resolve", f"--user={getpass.getuser()}"),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._daemon(
            "mariadbd",
            *("mariadbd", "--no-defaults", database, f"--socket={at}/run/mysql", f"--pid-file={at}/run/mysql.pid"),
            *("--bind-address=127.0.0.1", f"--port={self._database_port}", "--skip-name-resolve"),
            *(f"--user={getpass.getuser()}", "--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=0"),
            *("--innodb-lock-wait-timeout=900",),
        )
        self._until(lambda: (at / "run" / "munge").exists() and (at / "run" / "mysql").exists(), "munge and MariaDB")
        self._daemon("slurmdbd", "slurmdbd", "-D")
        self._until(lambda: self._answers("sacctmgr", "-n", "show", "cluster"), "slurmdbd")
        self._answers("sacctmgr", "-i", "add", "cluster", "test")
        self._daemon("slurmctld", "slurmctld", "-D")
        self._until(lambda: self._answers("scontrol", "ping"), "slurmctld")
        for number in range(1, self._size["nodes"] + 1):
            self.start_node(f"n{number}")
        idle = ["sinfo", "-h", "-N", "-p", "main", "-t", "idle", "-o", "%N"]
        self._until(lambda: len(self._run(*idle).stdout.split()) == self._size["nodes"], "the nodes")

    def start_node(self, name):
        """Start a node's daemon."""
        (self.directory / "spool" / name).mkdir(exist_ok=True)
        self._daemon(name, "slurmd", "-D", "-N", name)

    def kill_node(self, name):
        """End a node as a power cut does: its daemon and everything that runs under it. The controller is not told."""
        for entry in self._entries():
            if entry["name"] == name:
                steps = [pid for pid in processes() if _is_step_of(pid, name)]
                for pid in [entry["pid"], *(child for step in steps for child in [step, *_children(step)])]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        self._processes.write_text(json.dumps([entry for entry in self._entries() if entry["name"] != name]))

    def stop(self):
        """End all jobs and all daemons, the controller's before those that it needs."""
        entries = self._entries()
        if any(entry["name"] == "slurmctld" and _lives(entry) for entry in entries):
            self._run("scancel", "--full", "--signal=KILL", f"--user={getpass.getuser()}")
            self._run("scancel", f"--user={getpass.getuser()}")
            with contextlib.suppress(TimeoutError):
                self._until(lambda: not self._run("squeue", "-h").stdout.strip(), "jobs to end", 10)
        for entry in reversed(entries):
            if _lives(entry):
                os.kill(entry["pid"], signal.SIGTERM)
            try:
                self._until(lambda entry=entry: not _lives(entry), entry["name"], 10)
            except TimeoutError:
                os.kill(entry["pid"], signal.SIGKILL)
        self._processes.unlink(missing_ok=True)
        for process in self._started:
            process.wait()

    def _daemon(self, name, *argv):
        with open(self.directory / "log" / f"{name}.out", "w") as out:
            process = subprocess.Popen(
                argv,
                env={**os.environ, "SLURM_CONF": str(self.conf)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._started.append(process)
        self._processes.write_text(
            json.dumps([*self._entries(), {"name": name, "pid": process.pid, "began": _began(process.pid)}])
        )

    def _entries(self):
        return json.loads(self._processes.read_text()) if self._processes.exists() else []

    def _run(self, *argv):
        try:
            return subprocess.run(
                argv, env={**os.environ, "SLURM_CONF": str(self.conf)}, capture_output=True, text=True, timeout=20
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(argv, 1, "", "")

    def _answers(self, *argv):
        return self._run(*argv).returncode == 0

    def _until(self, condition, what, patience=PATIENCE):
        deadline = time.monotonic() + patience
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {patience:.0f} s for {what}; see {self.directory / 'log'}")
            time.sleep(0.05)


def missing():
    """The programs that are not installed."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    os.environ["PATH"] = path
    return [program for program in PROGRAMS if shutil.which(program) is None]


def install():
    """Have apt install them; for root."""
    if missing():
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update"], env=environment, check=True, stdout=sys.stderr)
        words = ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES.split()]
        subprocess.run(words, env=environment, check=True, stdout=sys.stderr)


def free_ports(count):
    """Ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def processes():
    """The numbers of all processes."""
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _stat(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _began(pid):
    found = _stat(pid)
    return None if found is None or found[0] == "Z" else int(found[19])


def _lives(entry):
    return entry["began"] is not None and _began(entry["pid"]) == entry["began"]


def _children(pid):
    own = [other for other in processes() if (found := _stat(other)) and int(found[1]) == pid]
    return [*own, *(below for child in own for below in _children(child))]


def _is_step_of(pid, node):
    """Whether a process supervises a job's step on this node (its open files tell which)."""
    try:
        if Path(f"/proc/{pid}/comm").read_text().strip() != "slurmstepd":
            return False
        return any(f"slurmd.{node}.log" in os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("install", "start", "stop"))
    parser.add_argument("--dir", default="/tmp/lambda_hat_slurm", help="where it lives; a short path")
    for name, value in (("nodes", 3), ("cpus", 4), ("gpus", 2), ("array-size", 1001), ("memory", 300)):
        parser.add_argument(f"--{name}", type=int, default=value)
    words = parser.parse_args()
    if words.action == "install":
        install()
        return
    cluster = Cluster(words.dir, words.nodes, words.cpus, words.gpus, words.array_size, words.memory)
    if words.action == "stop":
        cluster.stop()
        return
    cluster.start()
    print(f"export SLURM_CONF={cluster.conf}")


if __name__ == "__main__":
    main()
