"""The smoke book, alone, in a sweep and with shards, as jobs of a real Slurm here, held against the same without it.

    python tools/slurm.py        writes benchmarks/slurm.json, which book/clusters.md shows

One controller and two nodes of one core each, without an accounting database, in a folder of their own but for a link
to it in /etc/slurm; it needs Debian's slurm-wlm and munge, and root. In each run a job is cancelled while it is
running. The book with shards is held against one without. Ends with 1 if a table differs, or if no job was cancelled.
"""

import argparse
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from threading import Thread

from faults import Copy, hashes

from opinion_sae.artifacts import write_json
from opinion_sae.book.execute import machine
from opinion_sae.book.paths import ROOT

PLACE = Path("/etc/slurm/slurm.conf")  # where the commands look; the plugin keeps $SLURM_CONF from what it starts
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
NODES, MEMORY, PORT = ("node1", "node2"), 5000, 16817  # MB of each node, enough for twice what a chapter takes
CONFIG = """
ClusterName=proof
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={place}/munge.socket
CredType=cred/munge
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/%n
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/%n.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=36000
KillWait=5
"""
NODE = "NodeName={name} NodeAddr=127.0.0.1 NodeHostname={host} Port={port} CPUs=1 RealMemory={memory}\n"
PARTITION = "PartitionName=cpu Nodes={nodes} Default=YES MaxTime=INFINITE State=UP\n"
# what a chapter asks for that was not measured: the nodes are smaller than the profile takes them to be
SMALL = f"--default-resources mem_mb={MEMORY // 2} runtime=30 cpus_per_task=1"
FLAGS = f"--profile profiles/slurm-cpu {SMALL} --slurm-init-seconds-before-status-checks 5 --latency-wait 5"
SWEEP = "profile: smoke\noutput: results/proof\nhook_layer: [12, 15]\nseed: [0, 1]\n"


class Cluster:
    """The daemons, from entering to leaving a `with`."""

    def __init__(self, place: Path):
        self.place, self.daemons = place, []

    def __enter__(self) -> "Cluster":
        place, host = self.place, socket.gethostname()
        for name in ("state", *NODES):
            (place / name).mkdir(parents=True)
        key = place / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        nodes = [
            NODE.format(name=name, host=host, port=PORT + 1 + number, memory=MEMORY)
            for number, name in enumerate(NODES)
        ]
        config = place / "slurm.conf"
        head = CONFIG.format(host=host, place=place, port=PORT)
        config.write_text(head + "".join(nodes) + PARTITION.format(nodes=",".join(NODES)))
        PLACE.symlink_to(config)
        files = {"key": key} | {name: place / f"munge.{name}" for name in ("socket", "pid", "log", "seed")}
        given = [f"--{name}{'' if name in ('socket',) else '-file'}={file}" for name, file in files.items()]
        self.start("munged", "--foreground", "--force", *given)
        time.sleep(1)
        self.start("slurmctld", "-D")
        for name in NODES:
            self.start("slurmd", "-D", "-N", name)
        for _ in range(60):
            if said("sinfo", "--noheader", "--format=%D %t").strip() == f"{len(NODES)} idle":
                return self
            time.sleep(1)
        self.__exit__()
        raise SystemExit(f"the cluster does not start; its logs:\n{(place / 'daemons.log').read_text()[-3000:]}")

    def start(self, *call: str) -> None:
        with (self.place / "daemons.log").open("ab") as log:
            self.daemons.append(subprocess.Popen(call, stdout=log, stderr=subprocess.STDOUT))

    def __exit__(self, *_: object) -> None:
        said("scancel", "--partition=cpu")  # an interrupted try leaves some
        time.sleep(2)
        for daemon in reversed(self.daemons):
            daemon.terminate()
            daemon.wait(30)
        PLACE.unlink()


def said(*call: str) -> str:
    return subprocess.run(call, capture_output=True, text=True, check=False).stdout


def jobs(*states: str) -> list[list[str]]:
    """Number, state, seconds so far, node and rule of all jobs in these states, or in any."""
    chosen = ",".join(states) or "all"
    lines = said("squeue", "--noheader", f"--states={chosen}", "--format=%i|%T|%M|%N|%k").splitlines()
    return [line.split("|") for line in lines]


def cancel(rule: str, seconds: int, cancelled: list[str]) -> None:
    """Cancel the first job of a rule that has run for so long; gives up after an hour."""
    for _ in range(3600):
        for job, _, taken, _, comment in jobs("RUNNING"):
            minutes, _, rest = taken.rpartition(":")
            if comment == f"rule_{rule}" and 60 * int(minutes or 0) + int(rest) >= seconds:
                said("scancel", job)
                cancelled.append(f"{job} ({rule})")
                return
        time.sleep(1)


def on_cluster(copy: Copy, command: list[str], rule: str, seconds: int) -> dict[str, object]:
    """Run a command whose jobs go to the cluster and cancel one of them; what came of the jobs."""
    before, cancelled = {job[0] for job in jobs()}, []
    Thread(target=cancel, args=(rule, seconds, cancelled), daemon=True).start()
    code, text, taken = copy.run("-m", "opinion_sae", *command, *FLAGS.split())
    if code:
        raise SystemExit(f"{' '.join(command)} fails on the cluster:\n{text[-6000:]}")
    new = [job for job in jobs() if job[0] not in before]
    states = {state: sum(job[1] == state for job in new) for state in sorted({job[1] for job in new})}
    nodes = {node: sum(job[3] == node for job in new) for node in NODES}
    words = " ".join(["opinion-sae", *command, FLAGS])
    return {"command": words, "seconds": round(taken), "jobs": states, "on": nodes} | {"cancelled": cancelled}


def with_shards(copy: Copy, shards: int) -> None:
    """Write the smoke profile with so many shards, as a run of its own."""
    smoke = (copy.root / "profiles" / "smoke.yaml").read_text().replace("results/smoke", "results/shards")
    (copy.root / "shards.yaml").write_text(f"{smoke}shards: {shards}\n")


def prove(copy: Copy) -> list[dict[str, object]]:
    """Each run with and without the cluster, and how many of their tables are equal."""
    sweep = copy.root / "proof.yaml"
    sweep.write_text(SWEEP)
    kinds = [("book", ["book", "--", "smoke"], "04_delta", 5, "smoke/[!.]*")]
    kinds += [("sweep", ["sweep", "--", "proof.yaml"], "proof_12_0", 40, "proof*/[!.]*")]
    kinds += [("book with shards", ["book", "--", "shards.yaml"], "shard_wildcards_1", 2, "shards/[!.]*")]
    with_shards(copy, 3)
    found, tables = [], {}
    for name, command, rule, seconds, pattern in kinds:
        made = on_cluster(copy, command, rule, seconds)
        tables[name] = hashes((copy.root / "results").glob(pattern))
        found.append({"name": name, **made})
        print(json.dumps(found[-1]), flush=True)
    copy.clean()
    with_shards(copy, 1)
    for run, (name, command, _, _, pattern) in zip(found, kinds, strict=True):
        code, text, taken = copy.run("-m", "opinion_sae", *command)
        if code:
            raise SystemExit(f"the {name} does not even run without a cluster:\n{text[-3000:]}")
        expected = hashes((copy.root / "results").glob(pattern))
        differ = [table for table in expected | tables[name] if expected.get(table) != tables[name].get(table)]
        run |= {"local_seconds": round(taken), "tables": len(expected), "differ": differ}
        print(json.dumps(run), flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "slurm.json")
    given = parser.parse_args()
    missing = [name for name in NEEDED if not shutil.which(name)]
    if missing or os.geteuid():
        raise SystemExit(f"error: needs root and {', '.join(missing or NEEDED)}: apt-get install slurm-wlm munge")
    if PLACE.exists() or PLACE.is_symlink():
        raise SystemExit(f"error: {PLACE} is there, so this machine belongs to a cluster or an earlier try was killed")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="opinion-sae-slurm-") as name, Cluster(Path(name) / "slurm"):
        runs = prove(Copy(Path(name)))
    slurm = {"slurm": said("slurmd", "-V").split()[-1], "plugin": version("snakemake-executor-plugin-slurm")}
    facts = {"machine": machine(), **slurm, "nodes": len(NODES), "cores": 1, "memory_mb": MEMORY}
    minutes = round((time.perf_counter() - start) / 60, 1)
    write_json(given.out, facts | {"minutes": minutes, "sweep": SWEEP, "runs": runs})
    return int(any(run["differ"] or not run["cancelled"] for run in runs))


if __name__ == "__main__":
    sys.exit(main())
