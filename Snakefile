"""The order of the book: which notebook needs what, and every file that it leaves.

snakemake --cores all --config profile=smoke
"""

import sys

from opinion_sae.book.execute import chosen
from opinion_sae.book.paths import PUBLISHED, ROOT, home, relative
from opinion_sae.book.profile import find_profile, load_profile, parameters
from opinion_sae.book.reach import code_hash
from opinion_sae.book.terminal import plan
from opinion_sae.book.workflow import EXTRACTED, hold, sizes, user_files

# Per notebook: the notebooks before it, then the files it writes to results/<run>/ (tables),
# _build/<run>/book/figures/ (figures) and _build/<run>/work/ (work).
CHAPTERS = {
    "01_surveys": dict(
        needs=[],
        tables=["surveys.csv", "dropped_cells.csv"],
        figures=["group_distance.svg"],
        work=["hash-data.json"],
    ),
    "02_unsteered": dict(
        needs=[],
        tables=["unsteered.csv"],
        figures=["position.svg"],
        work=["hash-model.json"],
    ),
    "03_sae": dict(
        needs=[],
        tables=["sae.json", "sae_history.csv"],
        figures=["sae_training.svg"],
        work=[
            "texts.json",
            "activations.safetensors",
            "sae/cfg.json",
            "sae/sae_weights.safetensors",
            "hash-sae.json",
            "numbers-sae.json",
        ],
    ),
    "04_delta": dict(
        needs=["03_sae"],
        tables=["delta_history.csv"],
        figures=["delta_training.svg"],
        work=[
            "answers.safetensors",
            "delta-{fold}.safetensors",
            "shared-{fold}.safetensors",
            "dense.safetensors",
            "numbers-delta.json",
        ],
    ),
    "17_reading": dict(
        needs=["03_sae", "04_delta"],
        tables=["reading_choices.csv", "read_only_choices.csv", "axes.csv", "codes.csv", "constant_share.csv"],
        figures=["reading_gap.svg", "codes.svg"],
        work=[
            "answers-reading.safetensors",
            "answers-few.safetensors",
            "reading-{fold}.safetensors",
            "reading-all.safetensors",
        ],
    ),
    "18_group_gaps": dict(
        needs=["02_unsteered", "04_delta", "05_joint", "06_controls", "11_selection", "17_reading"],
        tables=["gaps.csv", "gaps_by_fold.csv", "pair_gaps.csv", "gap_claims.csv", "answers.csv"],
        figures=["gaps.svg", "gaps_alone.svg"],
        work=["numbers-gaps.json"],
    ),
    "19_one_question": dict(
        needs=["07_alignment", "18_group_gaps"],
        tables=["one_question.csv", "kl_scale.csv"],
        figures=["one_question.svg", "one_question_toplines.svg", "kl_scale.svg"],
        work=[],
    ),
    "20_explorer": dict(needs=["03_sae", "04_delta", "17_reading"], tables=["explorer.json"], figures=[], work=[]),
    "21_group_map": dict(
        needs=["03_sae", "04_delta", "17_reading"],
        tables=["group_map.csv", "group_map_distances.csv", "geometry.csv", "persona_likeness.csv"],
        figures=["group_map.svg", "persona_likeness.svg"],
        work=[],
    ),
    "22_causal_audit": dict(
        needs=["03_sae", "04_delta", "09_latents", "17_reading"],
        tables=["causal_audit.csv", "causal_audit_means.csv", "gradient.csv"],
        figures=["causal_audit.svg", "causal_audit_written.svg", "gradient.svg"],
        work=[],
    ),
    "05_joint": dict(
        needs=["03_sae", "04_delta"],
        tables=["joint_history.csv", "joint_reading_history.csv"],
        figures=["joint_training.svg"],
        work=["answers-joint.safetensors", "joint/sae/sae_weights.safetensors", "joint/delta.safetensors"],
    ),
    "06_controls": dict(
        needs=["03_sae", "04_delta"],
        tables=["controls.csv"],
        figures=["controls.svg"],
        work=["answers-controls.safetensors", "diff-means.safetensors", "unembedding.safetensors"],
    ),
    "07_alignment": dict(
        needs=["02_unsteered", "04_delta", "05_joint", "06_controls", "11_selection"],
        tables=["alignment.csv", "floor.csv", "comparisons.csv", "transfer.csv"],
        figures=["alignment.svg", "alignment_by_group.svg", "delta_over_shared.svg"],
        work=["numbers-alignment.json"],
    ),
    "08_budget": dict(
        needs=["03_sae", "04_delta"],
        tables=["path.csv"],
        figures=["latent_path.svg", "latent_path_by_group.svg", "tilt.svg"],
        work=[],
    ),
    "09_latents": dict(
        needs=["03_sae", "04_delta", "17_reading"],
        tables=["latents.csv", "cards.json", "reading_path.csv", "fixed_part.csv"],
        figures=["reading_path.svg"],
        # and published/, unless its SAE is too large to be kept
        work=["hash-published.json", "numbers-predict.json"],
    ),
    "10_steering": dict(
        needs=["03_sae", "04_delta", "17_reading"],
        tables=["open_answers.csv", "dose.csv", "dose_choice.csv"],
        figures=["dose.svg"],
        work=[],
    ),
    "11_selection": dict(
        needs=["03_sae", "04_delta"],
        tables=["doses.csv", "selected.csv"],
        figures=["doses.svg", "selection.svg"],
        work=["answers-selected.safetensors"],
    ),
    "12_side_effects": dict(
        needs=["02_unsteered", "03_sae", "04_delta", "05_joint", "06_controls", "17_reading"],
        tables=["side_effects.csv"],
        figures=["trade_off.svg"],
        work=[],
    ),
    "13_opinionqa": dict(needs=["07_alignment", "18_group_gaps"], tables=[], figures=["compare_models.svg", "gaps_by_size.svg"], work=["numbers-full-size.json"]),
    "14_claims": dict(
        needs=["02_unsteered", "04_delta", "05_joint", "06_controls", "11_selection"],
        tables=["claims.csv"],
        figures=["claims.svg"],
        work=[],
    ),
    "24_specialised": dict(
        needs=[],
        tables=[],
        figures=[f"specialised_{of}.svg" for of in ("gains", "perplexity", "tokens", "map", "shift")],
        work=[],
    ),
    "15_speed": dict(needs=[], tables=[], figures=["speed.svg", "growth.svg"], work=[]),
    "25_leaderboard": dict(needs=[], tables=[], figures=["gain_and_cost.svg"], work=[]),
    "26_places": dict(needs=[], tables=[], figures=["places.svg", "personas.svg"], work=[]),
    "16_rerun": dict(needs=["03_sae", "04_delta"], tables=[], figures=[], work=[]),
    "23_architectures": dict(
        needs=[],
        tables=[],
        figures=["frontier.svg", "gaps_by_architecture.svg", "told_by_latents.svg", "scaling.svg"],
        work=[],
    ),
}
# the studies that a chapter shows
STUDIES = {
    "05_joint": ["constant"],
    "08_budget": ["constant"],
    "11_selection": ["trained_on"],
    "13_opinionqa": ["across"],
    "22_causal_audit": ["audit"],
    "23_architectures": ["architectures", "size"],
    "24_specialised": ["specialised", "shift"],
    "26_places": ["places"],
}
ALL_CORES = {"03_sae", "04_delta"}  # the rest waits for these
# what others wait for, and the longest: started last, they would run on alone at the end
FIRST = ["03_sae", "04_delta", "17_reading", "06_controls", "05_joint", "12_side_effects", "08_budget", "09_latents"]
FIRST += ["22_causal_audit", "10_steering", "11_selection", "20_explorer"]

try:
    NAME = str(find_profile(str(config.get("profile", "default"))))
    PROFILE = load_profile(NAME)
    PARAMETERS = {name: chosen(PROFILE, ROOT / f"notebooks/{name}.ipynb") for name in CHAPTERS}
except (FileNotFoundError, ValueError) as error:
    sys.exit(f"error: {error}")

RUN = PROFILE.run


workdir: str(home())


if PROFILE.sae_steps < 100:  # nothing in it is work enough for more than one core
    ALL_CORES = set()
PROSE = [ROOT / name for name in ("src/opinion_sae/book/build.py", "src/opinion_sae/book/cards.py", "src/opinion_sae/book/latent_pages.py", "src/opinion_sae/book/head.py", "_config.yml", "CITATION.cff")]
PROSE += [path for path in (*ROOT.glob("benchmarks/*.json"), *ROOT.glob("book/*"), *ROOT.glob("book/_static/*"), *ROOT.glob("book/_extra/explorer/*"), *ROOT.glob("book/_extra/latents/*")) if path.is_file()]


def written_by(name):
    """Every file that a chapter leaves; `update` keeps the old one until a new one is there."""
    files = CHAPTERS[name]
    paths = [RUN.chapters / f"{name}.ipynb"]
    paths += [RUN.results / file for file in files["tables"]]
    paths += [RUN.figures / file for file in files["figures"]]
    for file in files["work"]:  # {fold} stands for each of the question folds
        folds = range(PROFILE.folds) if "{fold}" in file else [None]
        paths += [RUN.work / file.format(fold=fold) for fold in folds]
    return [relative(path) for path in paths]


def needed(paths):
    """As a function, since snakemake takes {braces} in a plain path for a wildcard."""
    files = [relative(path) for path in paths]
    return lambda wildcards: files


def shown(name):
    """The committed files that a chapter shows, other than those that its run itself writes."""
    made = {name: ["evaluate.json"] for name in ("07_alignment", "12_side_effects", "14_claims", "18_group_gaps")}
    made |= {"09_latents": ["evaluate.json", "evaluate_latents.csv", "labels.csv"], "11_selection": ["selection.csv"]}
    made |= {"13_opinionqa": ["leaderboard.csv", "leaderboard.json"]}
    made |= {"25_leaderboard": ["leaderboard.csv", "leaderboard_gaps.csv", "leaderboard.json"]}
    # by `make evaluate`, `make select`, `opinion-sae label` and `opinion-sae compare`; by `make study`
    files = [path for path in (RUN.results / file for file in made.get(name, [])) if path.is_file()]
    places = [ROOT / "results", *(ROOT / "results" / run for run in PUBLISHED), RUN.results]
    folders = [place / "studies" / of for of in STUDIES.get(name, []) for place in places]
    files += sorted({path for folder in folders for path in folder.glob("*.*")})
    if name == "15_speed":
        files += [path for path in ROOT.glob("benchmarks/*.*") if path.suffix in (".json", ".csv")]
    if name == "13_opinionqa":
        others = [folder for named in ("opinionqa*", "gss-*", "default") for folder in ROOT.glob(f"results/{named}")]
        files += [path for folder in others if folder != RUN.results for path in folder.glob("*.*")]
        files.append(ROOT / "benchmarks/full_size.json")
    return files


onstart:
    try:
        HELD = hold(RUN)
    except ValueError as error:
        sys.exit(f"error: {error}")
    plan(RUN, sorted(CHAPTERS.keys() & {job.rule.name for job in workflow.dag.needrun_jobs()}))


rule book:
    input:
        [written_by(name) for name in CHAPTERS],
        needed([RUN.results / "run.json", *PROSE, *RUN.results.glob("labels.csv")]),
    output:
        update(relative(RUN.html / "index.html")),
    params:
        profile=lambda wildcards: NAME,
    threads: workflow.cores
    message:
        "the book of {params.profile}"
    shell:
        "{sys.executable:q} -m opinion_sae html -- {params.profile:q}"


SHARDS = []  # what chapter 03 joins, where several jobs extract its activations
if PROFILE.shards > 1:
    VALUES = parameters(PROFILE, list(EXTRACTED))
    SHARDS = [relative(RUN.shards / f"shard-{number}.safetensors") for number in range(PROFILE.shards)]

    rule shard_texts:
        input:
            needed(user_files(VALUES)),
        output:
            update(relative(RUN.shards / "texts.json")),
        params:
            profile=lambda wildcards: NAME,
            values=lambda wildcards: VALUES,
            code=code_hash(ROOT / "src/opinion_sae/book/extract.py"),
        resources:
            **sizes(RUN, "03_sae"),
        message:
            "texts"
        priority: len(FIRST)
        threads: workflow.cores if "03_sae" in ALL_CORES else 1
        shell:
            "{sys.executable:q} -m opinion_sae extract -- {params.profile:q}"

    rule shard:
        input:
            rules.shard_texts.output,
        output:
            update(relative(RUN.shards / "shard-{number}.safetensors")),
        wildcard_constraints:
            number=r"\d+",
        params:
            profile=lambda wildcards: NAME,
            values=lambda wildcards: VALUES,
            code=code_hash(ROOT / "src/opinion_sae/book/extract.py"),
        resources:
            **sizes(RUN, "03_sae"),
        message:
            "activations, shard {wildcards.number}"
        priority: len(FIRST)
        threads: workflow.cores if "03_sae" in ALL_CORES else 1
        shell:
            "{sys.executable:q} -m opinion_sae extract --shard {wildcards.number} -- {params.profile:q}"


for chapter, files in CHAPTERS.items():

    rule:
        name:
            chapter
        input:
            needed([ROOT / f"notebooks/{chapter}.ipynb", *user_files(PARAMETERS[chapter]), *shown(chapter)]),
            [written_by(name) for name in files["needs"]],
            SHARDS if chapter == "03_sae" else [],
        output:
            *[update(path) for path in written_by(chapter)],
        params:
            profile=lambda wildcards: NAME,
            notebook=chapter,
            values=lambda wildcards, name=chapter: PARAMETERS[name],
            code=code_hash(ROOT / f"notebooks/{chapter}.ipynb"),
        resources:
            **sizes(RUN, chapter),
        message:
            "{params.notebook}"
        priority: len(FIRST) - FIRST.index(chapter) if chapter in FIRST else 0
        # the others run two at a time on two cores, as much of a chapter is work for one core
        threads: workflow.cores if chapter in ALL_CORES else 1
        shell:
            "{sys.executable:q} -m opinion_sae run {params.notebook} -- {params.profile:q}"


rule tables:
    input:
        [written_by(name) for name in ("01_surveys", "02_unsteered", "07_alignment", "14_claims", "18_group_gaps")],
    params:
        profile=lambda wildcards: NAME,
    localrule: True
    message:
        "run.json of the chapters that alignment.csv, claims.csv and gaps.csv need"
    shell:
        "{sys.executable:q} -m opinion_sae summary -- {params.profile:q}"


rule summary:
    input:
        [written_by(name) for name in CHAPTERS],
    output:
        update(relative(RUN.results / "run.json")),
    params:
        profile=lambda wildcards: NAME,
    localrule: True
    message:
        "run.json"
    shell:
        "{sys.executable:q} -m opinion_sae summary -- {params.profile:q}"
