"""The cells of a sweep, one job each: the chapters of its run up to the tables, one after another.

opinion-sae sweep SWEEP.yaml -- --profile profiles/slurm-cpu
"""

import sys
from dataclasses import asdict
from pathlib import Path

from opinion_sae.book.execute import NOTEBOOKS
from opinion_sae.book.paths import home, relative
from opinion_sae.book.reach import code_hash
from opinion_sae.book.sweep import LAST, read_sweep
from opinion_sae.book.workflow import sizes, user_files

try:
    SWEEP = read_sweep(Path(config["profile"]))
except (FileNotFoundError, ValueError) as error:
    sys.exit(f"error: {error}")


workdir: str(home())


def needed(cell):
    """As a function, since snakemake takes {braces} in a plain path for a wildcard."""
    files = [relative(path) for path in (cell.path, *user_files(asdict(cell.profile)))]
    return lambda wildcards: files


rule cells:
    input:
        [relative(cell.done) for cell in SWEEP.cells],
    localrule: True


for cell in SWEEP.cells:

    rule:
        name:
            cell.name.replace("-", "_")
        input:
            needed(cell),
        output:
            touch(relative(cell.done)),
        params:
            cell=cell.name,
            profile=str(cell.path),
            last=LAST,
            log=str(cell.log),
            # one cell is run again, as far as it changes anything in it, where any chapter would be
            code=[code_hash(path) for path in sorted(NOTEBOOKS.glob("*.ipynb"))],
        resources:
            **sizes(SWEEP.base),
        message:
            "{params.cell}"
        shell:
            "{sys.executable:q} -m opinion_sae book -- {params.profile:q} --cores {threads} --until {params.last} "
            "> {params.log:q} 2>&1"
