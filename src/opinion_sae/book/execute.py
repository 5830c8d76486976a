"""Run the notebooks of the book with a profile's parameters."""

import ast
import fcntl
import importlib.metadata
import logging
import math
import os
import platform
import re
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from opinion_sae.artifacts import read_json, replacing, write_json
from opinion_sae.book.paths import ROOT, Run, home, open_run, relative
from opinion_sae.book.profile import Profile, model_name, parameters
from opinion_sae.book.recorded import read_cells, read_cost
from opinion_sae.book.terminal import spoken, stages, standing, tell
from opinion_sae.progress import VARIABLE

NOTEBOOKS = ROOT / "notebooks"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")

KERNEL_ENVIRONMENT = {
    "JUPYTER_PREFER_ENV_PATH": "1",  # this environment's kernel, not one from the user's folder
    "PYTHONHASHSEED": "0",
    "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),  # for benchmarks/
    "OMP_WAIT_POLICY": "passive",  # these two as in the package, which a notebook may import after torch
    "MKL_CBWR": "AUTO,STRICT",
    "OPENBLAS_NUM_THREADS": "1",  # numpy's, whose sums depend on it
    "PYTHONWARNINGS": "ignore:IProgress not found",  # tqdm would like a widget; the bars go elsewhere
    "SOURCE_DATE_EPOCH": "0",  # the date that matplotlib writes into an SVG
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_MODE": "disabled",
}
# Python looks for cycles after every 700 new objects, which is a quarter of the time that loading libraries takes
SELDOM = "import gc; gc.set_threshold(50_000, 20, 50)"
PACKAGES = ("torch", "transformers", "sae-lens", "numpy", "pandas", "matplotlib")


class NotebookError(ValueError):
    """A notebook that did not run to its end; the message names it, the cell and the error."""


def declared(notebook: Path) -> dict[str, Any]:
    """The parameters of a notebook and their defaults: its one cell tagged `parameters`.

    Raises ValueError unless that cell holds nothing but `name = literal` lines, because papermill
    puts the profile's values after it and whatever it derives would keep the default.
    """
    cells = [cell for cell in read_cells(notebook) if "parameters" in cell["metadata"].get("tags", [])]
    if len(cells) != 1:
        raise ValueError(f"{notebook}: one cell must be tagged parameters, not {len(cells)}")
    try:
        lines = ast.parse(cells[0]["source"]).body
    except (SyntaxError, MemoryError, RecursionError, ValueError) as error:
        raise ValueError(f"{notebook}: the parameters are not Python: {error}") from error
    found = {}
    for line in lines:
        target = line.targets[0] if isinstance(line, ast.Assign) else getattr(line, "target", None)
        if not isinstance(line, ast.Assign | ast.AnnAssign) or not isinstance(target, ast.Name):
            raise ValueError(f"{notebook}: not `name = value` in the parameters: {ast.unparse(line)}")
        try:
            found[target.id] = ast.literal_eval(line.value or line)
        except ValueError as error:
            raise ValueError(f"{notebook}: the default of {target.id} is not a literal") from error
    return found


def find_notebook(name: str) -> Path:
    """A notebook by its name or number. Raises FileNotFoundError that lists those there are."""
    known = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    found = [stem for stem in known if name.removesuffix(".ipynb") in (stem, stem.partition("_")[0])]
    if not found:
        raise FileNotFoundError(f"no chapter {name!r}; there are {', '.join(known)}")
    return NOTEBOOKS / f"{found[0]}.ipynb"


def chosen(profile: Profile, notebook: Path) -> dict[str, Any]:
    """The profile's values for the parameters of a notebook. Raises ValueError for unknown ones."""
    try:
        return parameters(profile, list(declared(notebook)))
    except ValueError as error:
        raise ValueError(f"{notebook}: {error}" if str(notebook) not in str(error) else error) from error


def run_notebook(profile: Profile, notebook: Path) -> Path:
    """Execute a notebook and return its chapter, `_build/<run>/book/chapters/<name>.ipynb`.

    The chapter is written when the last cell is done; a failing cell raises NotebookError and
    leaves the chapter of an earlier run alone. Only parameters that differ from the notebook's
    own are injected. Logs wall time (seconds) and peak memory (MB) of the kernel.
    """
    run = open_run(profile.output)
    run.logs.mkdir(exist_ok=True)
    with _alone(run.logs / f".{notebook.stem}.lock"):
        return _run_alone(profile, notebook, run)


def _run_alone(profile: Profile, notebook: Path, run: Run) -> Path:
    import nbformat

    values, defaults = chosen(profile, notebook), declared(notebook)
    log, half = run.logs / f"{notebook.stem}.log", run.logs / f"{notebook.stem}.ipynb"
    log.write_text(f"{notebook.stem} {values}\n", encoding="utf-8")
    start = time.perf_counter()
    tell(f"{time.strftime('%H:%M:%S')}  {notebook.stem}")
    with stages(notebook.stem, log):
        changed = {name: values[name] for name in values if values[name] != defaults[name]}
        executed = _execute(notebook, half, changed, log)
    cost = {
        "seconds": round(time.perf_counter() - start, 1),
        "peak_memory_mb": round(_peak_memory() / 1e6),
    }
    warned = cleaned(executed)
    if warned:
        with log.open("a", encoding="utf-8") as file:
            file.write(warned)
        print(f"{notebook.stem}: wrote to stderr, see {relative(log)}", file=sys.stderr)
    with replacing(run.chapters / notebook.name) as side:
        nbformat.write(executed, side)
    half.unlink()
    write_json(run.logs / f"{notebook.stem}.json", cost)
    told = [f"done in {spoken(cost['seconds'])}", standing(run)]
    tell(f"{time.strftime('%H:%M:%S')}  {notebook.stem}: {', '.join(filter(None, told))}")
    return run.chapters / notebook.name


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Wait until no process runs this chapter: one may outlive a killed run for a while."""
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _execute(notebook: Path, half: Path, values: dict[str, Any], log: Path):
    """The executed notebook; `half` keeps what was done so far."""
    os.environ.update(KERNEL_ENVIRONMENT)
    os.environ[VARIABLE] = str(log)
    import papermill
    from nbclient.exceptions import DeadKernelError
    from traitlets.config import Config

    # Papermill's own reading of the parameters stumbles over types such as str | list[str].
    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        return papermill.execute_notebook(
            *(str(path).replace("{", "{{").replace("}", "}}") for path in (notebook, half)),  # it formats them
            values,
            kernel_name="python3",
            language="python",
            cwd=ROOT,
            progress_bar=False,
            config=Config(KernelManager={"transport_encryption": "auto"}),
            extra_arguments=[f"--IPKernelApp.exec_lines=[{SELDOM!r}]"],
        )
    except papermill.PapermillExecutionError as error:
        trace = COLOUR.sub("", "\n".join(error.traceback))
        with log.open("a", encoding="utf-8") as file:
            file.write(trace + "\n")
        what = f"{notebook.name}, cell In[{error.exec_count}]: {error.ename}: {_first(COLOUR.sub('', error.evalue))}"
        where = [what, *called(trace), f"traceback: {relative(log)}", f"notebook up to there: {relative(half)}"]
        raise NotebookError("\n  ".join(where)) from error
    except DeadKernelError as error:
        what = f"{notebook.name}{last_cell(half)}: the kernel died, most likely out of memory"
        where = [what, f"log: {relative(log)}", f"notebook up to there: {relative(half)}"]
        raise NotebookError("\n  ".join(where)) from error


def last_cell(half: Path) -> str:
    """Of a notebook that was stopped: the cell that was run last, and its first line; nothing if none was begun.

    Papermill notes when it starts each; its status says nothing, as all count as completed where a kernel has died.
    """
    cells = [cell for cell in (read_cells(half) if half.is_file() else []) if cell["cell_type"] == "code"]
    begun = [(cell["metadata"].get("papermill") or {}).get("start_time") is not None for cell in cells]
    if not any(begun):
        return ""
    last = max(number for number, one in enumerate(begun) if one)
    line = cells[last]["source"].strip().partition("\n")[0]
    return f", cell In[{sum(bool(cell['source'].strip()) for cell in cells[: last + 1])}] ({line[:80]})"


def _first(text: str) -> str:
    """Of a long message its first three lines, each no longer than four of a terminal."""
    return "\n    ".join(line[:320] for line in text.splitlines()[:3])


def called(trace: str) -> list[str]:
    """Of IPython's traceback: the line of the cell that failed, and the last two lines that it led to."""
    lines = anywhere(trace).splitlines()
    places = [number for number, line in enumerate(lines) if re.match(r"(File|Cell In) ?\S+", line)]
    found = []
    for start, end in pairwise([*places, len(lines)]):
        arrows = [line for line in lines[start:end] if re.match(r"-+> ?\d+ ", line)]
        found += [f"{lines[start].removeprefix('File ')}: {re.sub(r'^-+> ?[0-9]+ +', '', line)}" for line in arrows[:1]]
    return [line[:320] for line in (found if len(found) <= 3 else [found[0], *found[-2:]])]


def cleaned(notebook: Any) -> str:
    """Strip, in place, what differs between equal runs; return what was on stderr.

    Removed: timings, papermill's and nbclient's metadata, the injected cell's random id, Python's
    version, the repository's own path, and stderr (progress and warnings). Code is tagged `hide-input`: a click on the
    page shows it; a line that `only_says` something is left out, or a bar for it would part a figure from its sentence.
    """
    warned = ""
    notebook.metadata.pop("papermill", None)
    notebook.metadata.get("language_info", {}).pop("version", None)
    for number, cell in enumerate(notebook.cells):
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.id = f"injected-{number}"
        if cell.cell_type != "code":
            continue
        hidden = "remove-input" if only_says(cell.source) else "hide-input"
        cell.metadata["tags"] = sorted({*cell.metadata.get("tags", [])} - {"hide-input", "remove-input"} | {hidden})
        warned += "".join(out.text for out in cell.outputs if out.get("name") == "stderr")
        cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
        for out in cell.outputs:
            if "text" in out:
                out.text = anywhere(out.text)
            for kind, content in out.get("data", {}).items():
                if isinstance(content, str):
                    out.data[kind] = anywhere(content)
    return warned


def only_says(code: str) -> bool:
    """Whether a cell is one line that shows a sentence, and computes nothing for cells after it."""
    try:
        lines = ast.parse(code).body
    except SyntaxError:
        return False
    one = lines[0] if len(lines) == 1 and "\n" not in code.strip() else None
    call = one.value if isinstance(one, ast.Expr) else None
    return isinstance(call, ast.Call) and ast.unparse(call.func) in ("Markdown", "typeset.sentence")


def anywhere(text: str) -> str:
    """The text without the place of this repository and of its runs, which differ from machine to machine."""
    return text.replace(f"{ROOT}/", "").replace(f"{home()}/", "")


def _peak_memory() -> int:
    """Bytes; of the largest child process that has ended, which is the kernel."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def summarise(profile: Profile) -> None:
    """Write `numbers.json` (formatted, for the prose) and `run.json` to the results folder.

    Collects what the notebooks left in the work folder: `numbers-*.json` (string values, no name
    twice) and `hash-*.json`; adds model, machine and time_total to the numbers.
    """
    run = open_run(profile.output)
    speed = run.work / "throughput.json"
    if not speed.is_file():
        write_json(speed, throughput())
    logs = [run.logs / f"{notebook.stem}.json" for notebook in sorted(NOTEBOOKS.glob("*.ipynb"))]
    costs = {path.stem: read_cost(path) for path in logs if path.exists()}
    numbers = {
        "model": model_name(profile.model),
        "machine": f"{machine()}, {products(read_json(speed))}",
        "time_total": spoken(math.fsum(cost["seconds"] for cost in costs.values())),
    }
    for path in sorted(run.work.glob("numbers-*.json")):
        for name, value in read_json(path, dict).items():
            if name in numbers or not isinstance(value, str):
                raise ValueError(f"{path}: {name} must be a string and given in one place only")
            numbers[name] = value
    write_json(run.results / "numbers.json", numbers)
    write_json(
        run.results / "run.json",
        {
            "profile": asdict(profile),
            "hashes": {path.stem[5:]: read_json(path) for path in sorted(run.work.glob("hash-*.json"))},
            "versions": versions("opinion-sae", *PACKAGES),
            "machine": machine(),
            "throughput": read_json(speed),
            "notebooks": costs,
        },
    )


def versions(*packages: str) -> dict[str, str]:
    """Of Python and of these packages."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}


def machine() -> str:
    """Such as `2 CPU cores (Linux, x86_64)`, and the GPU if there is one."""
    import torch

    gpu = f" and one {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{os.cpu_count()} CPU cores ({platform.system()}, {platform.machine()}){gpu}"


def throughput(side: int = 2048, rounds: int = 5, seconds: float = 1.0) -> dict[str, int | float]:
    """What times are to be compared by: GFLOP/s of a product of two square matrices as the library makes it, the
    median of up to `rounds` within about so many seconds for each type, on the CPU with so many threads of torch."""
    import torch

    from opinion_sae.products import linear

    found: dict[str, int | float] = {"side": side, "threads": torch.get_num_threads()}
    for dtype in (torch.float32, torch.bfloat16):
        matrix, taken = torch.ones(side, side, dtype=dtype), []
        linear(*2 * [torch.ones(64, 64, dtype=dtype)])  # whatever is set up once
        while len(taken) < rounds and sum(taken) < seconds:
            start = time.perf_counter()
            linear(matrix, matrix)
            taken.append(time.perf_counter() - start)
        found[f"gflops_{str(dtype).removeprefix('torch.')}"] = round(2 * side**3 / statistics.median(taken) / 1e9, 1)
    return found


def products(found: dict[str, int | float]) -> str:
    """`throughput` for the prose."""
    return (
        f"which multiply matrices of side {found['side']} with {found['gflops_float32']:.0f} GFLOP/s in float32 and "
        f"{found['gflops_bfloat16']:.0f} in bfloat16 (threads: {found['threads']})"
    )
