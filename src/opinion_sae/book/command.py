"""The command `opinion-sae`. Imports what a command needs only when it is called, so that --help takes no time."""

from __future__ import annotations

import argparse
import os
import runpy
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def check(given: argparse.Namespace) -> None:
    """Say what would run, or what is wrong with the profile."""
    from opinion_sae.book.execute import NOTEBOOKS, chosen
    from opinion_sae.book.preflight import check_run
    from opinion_sae.book.profile import load_profile

    profile = load_profile(given.profile)
    for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
        chosen(profile, notebook)
    note = check_run(profile)
    print(f"profile {given.profile}: {profile.model}, {profile.survey} -> {profile.output}")
    if note:
        print(f"note: {note}")


def book(given: argparse.Namespace) -> None:
    """Run what is not there or not up to date. Given flags for snakemake, all that it says is shown."""
    from opinion_sae.book.paths import open_run
    from opinion_sae.book.preflight import check_room, fetch
    from opinion_sae.book.profile import find_profile, load_profile
    from opinion_sae.book.terminal import watch
    from opinion_sae.book.workflow import command, go_on

    check(given)
    sys.stdout.flush()
    profile = load_profile(given.profile)
    run = open_run(profile.output)
    go_on(run)
    check_room()
    if not given.flags:  # with flags for snakemake, perhaps nothing that needs them is run
        fetch(profile)
    run.logs.mkdir(exist_ok=True)
    call = command(str(find_profile(given.profile)), ["tables"] if given.tables else [], given.flags)
    watch(call, run.logs / "snakemake.log", everything=bool(given.flags))
    if not given.flags:  # which may ask for less
        print(f"the tables: {run.results}" if given.tables else f"the book: {run.html / 'index.html'}")


def run(given: argparse.Namespace) -> None:
    """Chapters, whether or not they are up to date."""
    from opinion_sae.book.execute import find_notebook, run_notebook
    from opinion_sae.book.profile import find_profile, load_profile

    profile, notebooks = load_profile(given.profile), [find_notebook(one) for one in given.chapter.split(",")]
    for notebook in notebooks:
        home = os.environ.get("OPINION_SAE_HOME")
        again = ["env", f"OPINION_SAE_HOME={home}"] if home else []
        again += [sys.executable, "-m", "opinion_sae", "run", notebook.stem, "--", str(find_profile(given.profile))]
        try:
            print(f"the chapter: {run_notebook(profile, notebook)}")
        except (OSError, ValueError) as error:
            raise ValueError(f"{error}\n  only this again: {shlex.join(again)}") from error


def extract(given: argparse.Namespace) -> None:
    """The texts of chapter 03, or the activations of one shard of them."""
    from opinion_sae.book.extract import extract
    from opinion_sae.book.profile import load_profile

    print(f"written: {extract(load_profile(given.profile), given.shard)}")


def sweep(given: argparse.Namespace) -> None:
    """A table over models, layers, surveys and seeds."""
    from opinion_sae.book.sweep import sweep

    print(f"written: {sweep(given.sweep, given.flags)}")


def summary(given: argparse.Namespace) -> None:
    """numbers.json and run.json from what the chapters left."""
    from opinion_sae.book.execute import summarise
    from opinion_sae.book.profile import load_profile

    summarise(load_profile(given.profile))


def html(given: argparse.Namespace) -> None:
    """The pages, from chapters that were run before."""
    from opinion_sae.book.build import build, publish
    from opinion_sae.book.paths import published
    from opinion_sae.book.profile import load_profile

    run = load_profile(given.profile).run if given.profile else published()
    made = build(run)
    if given.profile:
        publish(run)
    print(f"the book: {made / 'index.html'}")


def evaluate(given: argparse.Namespace) -> None:
    """Five seeds, other splits, a learning curve, persona prompts, LoRA."""
    from opinion_sae.book import evaluate
    from opinion_sae.book.profile import load_profile

    print(f"written: {evaluate.evaluate(load_profile(given.profile), given.items)}")


def study(given: argparse.Namespace) -> None:
    """What the book shows but does not rerun; without a name, what there is of that."""
    from opinion_sae.book import study
    from opinion_sae.book.profile import load_profile

    if given.list or given.name is None:
        print(study.listed())
    else:
        print(f"written: {study.study(given.name, load_profile(given.profile), given.items, given.data)}")


def compare(given: argparse.Namespace) -> None:
    """Every method on one bench."""
    from opinion_sae.book.compare import compare
    from opinion_sae.book.profile import load_profile

    methods = [name.strip() for name in given.methods.split(",") if name.strip()]
    print(f"written: {compare(load_profile(given.named or given.profile), methods)}")


def select(given: argparse.Namespace) -> None:
    """Layer, L1 strength and beta by validation KL."""
    from opinion_sae.book import select
    from opinion_sae.book.profile import load_profile

    table = select.means(select.select(load_profile(given.profile)))
    print(table.to_string(index=False, float_format=lambda x: f"{x:.4g}"))


def bench(given: argparse.Namespace) -> None:
    """The benchmarks lie beside the library, in the repository."""
    from opinion_sae.book.paths import ROOT

    sys.path.insert(0, str(ROOT))
    sys.argv = ["benchmarks", given.device]
    runpy.run_module("benchmarks.full_size" if given.device == "full-size" else "benchmarks", run_name="__main__")


def predict(given: argparse.Namespace) -> None:
    """How each group would answer questions of one's own."""
    from opinion_sae.book.predict import answer

    answer(given.questions, given.run, given.out, given.figure, given.json)


def label(given: argparse.Namespace) -> None:
    """Labels of latents, with scores."""
    from opinion_sae.book.label import Asked, label
    from opinion_sae.book.profile import load_profile

    asked = Asked(given.model, given.key_from, given.price, given.yes)
    print(f"written: {label(load_profile(given.profile), given.by, given.latents, asked)}")


def export(given: argparse.Namespace) -> None:
    """Files for Neuronpedia, or for the Hugging Face hub."""
    from opinion_sae.book.export import export_neuronpedia, export_sae
    from opinion_sae.book.profile import load_profile

    profile = load_profile(given.profile)
    if given.to == "neuronpedia":
        print(f"written: {export_neuronpedia(profile, given.creator)}")
    else:
        folder = export_sae(profile, given.repo, given.upload)
        print(f"written, and read back by SAELens: {folder}")
        print(f"uploaded to {given.repo}" if given.upload else "nothing was uploaded (--upload does)")


def survey(given: argparse.Namespace) -> None:
    """A survey in a form that other programs read."""
    from opinion_sae.survey.export import write_opinionqa, write_tidy

    write = write_tidy if given.form == "tidy" else write_opinionqa
    write(given.survey, given.target)
    print(f"written: {given.target}")


def clean(given: argparse.Namespace) -> None:
    """What runs made, and nothing else."""
    from opinion_sae.book import paths

    paths.clean()


def parser() -> argparse.ArgumentParser:
    """All commands and what they take."""
    parser = argparse.ArgumentParser(
        "opinion-sae", description="Steer a language model's survey answers, and the book."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(action, text: str, profile: bool = True) -> argparse.ArgumentParser:
        made = commands.add_parser(action.__name__, help=text, description=f"{text[0].upper()}{text[1:]}.")
        made.set_defaults(action=action)
        if profile:
            made.add_argument("profile", nargs="?", default="default", help="a name in profiles/, or a path in .yaml")
        return made

    _runs(add)
    _uses(add)
    add(clean, "remove what runs made, except published results", profile=False)
    return parser


def _runs(add: Callable[..., argparse.ArgumentParser]) -> None:
    """What runs notebooks and what goes with them."""
    add(check, "check a profile before anything runs")
    one = add(book, "run every notebook that is not up to date, and build the book")
    one.add_argument(
        "--tables", action="store_true", help="only what alignment.csv, claims.csv and gaps.csv need, and no book"
    )
    one.add_argument("flags", nargs="*", help="for snakemake, after -- and the profile")
    one = add(run, "run one chapter, or several in this order", profile=False)
    one.add_argument("chapter", help="such as 07_alignment, or 07; several with commas between")
    one.add_argument("profile", nargs="?", default="default", help="a name in profiles/, or a path in .yaml")
    one = add(extract, "keep the texts that the SAE is trained on, or the activations of one shard of them")
    one.add_argument("--shard", type=int, metavar="N", help="from 0 on; the profile's `shards` says how many there are")
    one = add(sweep, "run every combination of models, layers, surveys and seeds, as jobs; goes on where it was", False)
    one.add_argument("sweep", type=Path, help="a YAML file; its keys are in book/reproduce.md")
    one.add_argument("flags", nargs="*", help="for snakemake, after -- and the file")
    add(summary, "write run.json and numbers.json of the chapters that were run")
    one = add(html, "build the pages of chapters that were run before", profile=False)
    one.add_argument("profile", nargs="?", help="of whose run; without it the book as it is committed")
    one = add(
        evaluate,
        "after the book: five seeds, other splits, a learning curve, persona prompts, LoRA; goes on where it was "
        "stopped, and writes the tables after each item",
    )
    one.add_argument("items", nargs="*", help="some of: seeds splits learning prompts lora; without any, all of them")
    one = add(study, "after the book: what it shows but does not rerun; goes on where it was stopped", profile=False)
    one.add_argument("name", nargs="?", help="of a study; without one, those that there are and how long they take")
    one.add_argument("profile", nargs="?", default="default", help="a name in profiles/, or a path in .yaml")
    one.add_argument("items", nargs="*", help="some of its items, by the beginnings of their names; without any, all")
    one.add_argument("--list", action="store_true", help="as without a name")
    one.add_argument(
        "--data", type=Path, help="before the name: the path of what a study needs of one's own (bios, across)"
    )
    one = add(compare, "after the book: rival methods side by side; goes on where it was stopped")
    one.add_argument("--methods", default="", help="names with commas between; without it all of them")
    one.add_argument("--profile", dest="named", help="the same as its name behind --")
    add(select, "compare layers, L1 strengths and beta on validation; goes on where it was stopped")
    one = add(bench, "our speed beside other libraries', with the machine to itself", profile=False)
    one.add_argument("device", nargs="?", default="cpu", choices=("cpu", "cuda", "full-size"))


def _uses(add: Callable[..., argparse.ArgumentParser]) -> None:
    """What makes use of a finished run."""
    one = add(predict, "predict how each group would answer questions of your own", profile=False)
    one.add_argument("questions", type=Path, help="a CSV file; its columns are in book/predict.md")
    one.add_argument("--run", type=Path, help="a folder that a run keeps for this; without it the package's own")
    one.add_argument("--out", type=Path, help="the CSV file to write; without it <questions>-predictions.csv")
    one.add_argument("--figure", type=Path, help="an SVG file to draw")
    one.add_argument("--json", type=Path, help="a JSON file to write, which the book's explorer opens")
    one = add(label, "label the latents that have cards, and score the labels")
    one.add_argument("--by", default="statistics", help="statistics, weighted, model, or an endpoint's base URL")
    one.add_argument("--latents", type=int, default=20, help="how many, those with the largest weights (20)")
    one.add_argument("--model", default="", help="of an endpoint: the model that it is to ask")
    one.add_argument("--key-from", default="OPENAI_API_KEY", help="of an endpoint: the variable that holds the key")
    one.add_argument("--price", type=float, nargs=2, metavar=("IN", "OUT"), help="of an endpoint: per million tokens")
    one.add_argument("--yes", action="store_true", help="of an endpoint: send without asking")
    one = add(export, "write latents for Neuronpedia, or the SAE as for the Hugging Face hub")
    one.add_argument("--to", required=True, choices=("neuronpedia", "hub"))
    whom = "id of who uploads to Neuronpedia; without it whom its tools name"
    one.add_argument("--creator", default="clkht01d40000jv08hvalcvly", help=whom)
    one.add_argument("--repo", default="owner/name", help="the repository of the hub")
    one.add_argument("--upload", action="store_true", help="put the SAE there, with the token in HF_TOKEN")
    one = add(survey, "write a survey in a form that other programs read", profile=False)
    one.add_argument("survey", help="as in a profile: a shipped survey's name, a folder, or kind:<path>")
    one.add_argument("target", type=Path, help="the folder (opinionqa) or CSV file (tidy) to write")
    one.add_argument("--form", choices=("opinionqa", "tidy"), default="tidy")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. A mistake in what it is given ends with one line on stderr, and 1."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # of numpy, loaded later; as in execute.KERNEL_ENVIRONMENT
    from opinion_sae.book.terminal import tell

    given = parser().parse_args(arguments)
    try:
        given.action(given)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head`
        return 1
    except (OSError, ValueError) as error:
        tell(f"error: {error}")
        return 1
    return 0
