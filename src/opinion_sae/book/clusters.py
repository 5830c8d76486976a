"""The page on clusters: what `make test-slurm` ran as jobs, held against the same without them."""

from __future__ import annotations

from pathlib import Path

from opinion_sae.artifacts import read_json
from opinion_sae.book.markdown import captioned
from opinion_sae.book.paths import ROOT

HEAD = """# Many machines

Whether a book and a sweep come out the same as jobs of a Slurm cluster, also when a job is cancelled while it is
running. {doc}`reproduce` says how to send them there.

```{code-block} bash
apt-get install slurm-wlm munge    # as root, and so the next one
make test-slurm
```
"""


def clusters_page(path: Path = ROOT / "benchmarks" / "slurm.json") -> str:
    """The page in MyST Markdown; without the file it says that nothing was tried."""
    if not path.exists():
        return f"{HEAD}\nIt has not been run for this version.\n"
    found = read_json(path)
    runs = found["runs"]
    equal = sum(run["tables"] - len(run["differ"]) for run in runs)
    lines = [
        HEAD,
        f"**Of {sum(run['tables'] for run in runs)} tables {equal} are the same, byte for byte.** "
        f"Slurm {found['slurm']} with one controller and {found['nodes']} nodes of one core and "
        f"{found['memory_mb']} MB each, side by side on {found['machine']}, without an accounting database; jobs by "
        f"snakemake-executor-plugin-slurm {found['plugin']}, their state from `squeue`.\n",
    ]
    rows = [
        "| | Jobs | Cancelled | Tables | Equal | As jobs, s | Without, s |",
        "| :-- | :-- | :-- | --: | --: | --: | --: |",
    ]
    for run in runs:
        on = " + ".join(f"{count} on {node}" for node, count in run["on"].items())
        ended = ", ".join(f"{count} {state.lower()}" for state, count in run["jobs"].items())
        rows.append(
            f"| {run['name']} | {on}: {ended} | {', '.join(run['cancelled'])} | {run['tables']} | "
            f"{run['tables'] - len(run['differ'])} | {run['seconds']} | {run['local_seconds']} |"
        )
    commands = [f"{run['command']}\n" for run in runs]
    lines += [captioned("Runs as jobs, their tables held against those of a run without the cluster", rows)]
    lines += ["\nThe commands, and the sweep:\n", "```{code-block} text", *commands, found["sweep"].rstrip(), "```"]
    lines.append(
        "\nOf each line the same without what follows the profile, or the sweep's file, ran without the cluster.\n"
    )
    if any("shards" in run["name"] for run in runs):
        lines.append("`shards.yaml` is the smoke profile with `shards: 3` on the cluster and `shards: 1` without.\n")
    return "\n".join(lines)
