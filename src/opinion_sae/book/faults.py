"""The page on bad luck, from what `make test-faults` wrote."""

from __future__ import annotations

from pathlib import Path

from opinion_sae.artifacts import read_json
from opinion_sae.book.markdown import captioned
from opinion_sae.book.paths import ROOT

# in the order of the page: what happened, and what should come of it
TRIED = {
    "kills": (
        "a smoke book killed at a random moment; the same command again, every tenth time from nothing",
        "the command goes on by itself; at every end the tables are those of an undisturbed run, byte for byte",
    ),
    "full_chapters": ("the disk is full where the chapters go", "one line with the path; then, with room, the chapter"),
    "full_cache": ("the disk is full where the model goes", "one line with the path; then, with room, the model"),
    "full_tmpdir": (
        "the disk is full where temporary files go",
        "one line with the path; then, with room, the chapter",
    ),
    "no_network": (
        "no network, and no model in the cache",
        "one line within 10 seconds that says what is missing and how to bring it by hand",
    ),
    "by_hand": ("the model's wheel brought by hand, still without a network", "the model"),
    "wrong_hash": ("the model in the wheel is another one by one bit", "one line with both hashes, and nothing kept"),
    "truncated_wheel": ("half of the wheel", "one line with its name, and nothing kept"),
    "doors": (
        "one damaged input for a reader: profiles, surveys, offsets, SAEs, tables (seconds: of all together)",
        "one line with the file and the place in it, or what the whole file gives",
    ),
}
HEAD = """# Bad luck

What a run does when it is killed, when the disk is full and when there is no network, tried on a copy of it:

```{code-block} bash
make test-faults             # KILLS=50
```
"""


def faults_page(path: Path = ROOT / "benchmarks" / "faults.json") -> str:
    """The page in MyST Markdown; without the file it says that nothing was tried."""
    if not path.exists():
        return f"{HEAD}\nIt has not been run for this version.\n"
    found = read_json(path)
    outcomes = {outcome["name"]: outcome for outcome in found["outcomes"]}
    good, tried = (sum(outcome[key] for outcome in outcomes.values()) for key in ("good", "tried"))
    lines = [
        HEAD,
        f"Of {tried} trials {good} came out as they should, in {found['minutes']:.0f} minutes on {found['machine']} "
        f"(seed {found['seed']} of the random moments).\n",
    ]
    rows = [
        "| What happens | What should come of it | Trials | As it should | Longest, s |",
        "| :-- | :-- | --: | --: | --: |",
    ]
    told = []
    for name, (what, wanted) in TRIED.items():
        outcome = outcomes.get(name, {"tried": 0, "good": 0, "seconds": 0.0, "said": ""})
        numbers = [outcome["tried"], outcome["good"], outcome["seconds"]] if outcome["tried"] else ["not tried", "", ""]
        rows.append(f"| {what} | {wanted} | {' | '.join(map(str, numbers))} |")
        if outcome["said"].startswith("error: ") or outcome["good"] < outcome["tried"]:
            told.append(f"{what}:\n  {outcome['said']}\n")
    lines.append(captioned("What was tried, and how often it ended as it should", rows))
    return "\n".join([*lines, "\nWhat the terminal says:\n", "```{code-block} text", *told, "```", ""])
