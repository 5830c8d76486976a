"""What the studies of specialised SAEs and of SHIFT found, as chapter 24 shows it."""

from __future__ import annotations

import pandas as pd

from opinion_sae.book.study_tables import SAE
from opinion_sae.score.metrics import ENDS

STRATEGY = {
    "dense": "sentence embeddings",
    "random": "chunks at random",
    "bm25": "BM25",
    "tracin": "TracIn",
    "seed": "questions alone",
    "full": "the whole pool",
}
FEATURES = {
    "stream": "the stream itself",
    "general": "the book's SAE",
    "tuned": "an SAE trained on",
    "scratch": "an SAE from scratch",
    "narrow": "an eighth of the width",
}
TAKEN = 64  # features taken out, in the finding
MIDDLE = 32  # latents active on a token, in the sentence
TILTS = (0.0, 500.0, 1e9)  # of the loss; 0 is the mean
SHOWN = (0, 64)  # latents that the offsets of all SAEs read: all, and so many
ENOUGH = 0.9  # of the gap correlation with all latents


def called(start: str, strategy: str = "", tilt: float = 0.0) -> str:
    """An SAE's name."""
    if start in ("general", "model"):
        return {"general": "the book's SAE", "model": "the model as it is"}[start]
    return f"{'trained on' if start == 'tuned' else 'scratch'}: {STRATEGY[strategy]}" + (
        f", t = {tilt:g}" if tilt else ""
    )


def named(table: pd.DataFrame) -> pd.DataFrame:
    """With the SAE's name in place of its three columns."""
    names = [called(*row) for row in table[[*SAE]].itertuples(index=False)]
    return table.drop(columns=[*SAE]).assign(SAE=names)


def gap_rows(gaps: pd.DataFrame) -> pd.DataFrame:
    """What is shown of `gaps.csv`: a row per SAE and number of latents read."""
    gaps = gaps[gaps["latents"].isin(SHOWN)].reset_index(drop=True)
    numbers = [f"{name}{end}" for name in ("gap_r", "gap_r_gain", "group_kl_closed") for end in ENDS]
    heads = {name: name.replace("gap_r_gain", "gain").replace("gap_r", "gap correlation") for name in numbers}
    rows = named(gaps)[["SAE", "latents", "n_seeds", *numbers]].rename(columns={"n_seeds": "seeds", **heads})
    rows.loc[(gaps["start"] == "general").to_numpy(), ["gain", "gain_low", "gain_high"]] = float("nan")
    return rows.assign(latents=[str(count) if count else "all" for count in rows["latents"]])


def findings(gaps: pd.DataFrame, accuracy: pd.DataFrame) -> str:
    """The answers in short, of `gaps.csv` and `accuracy.csv`."""
    own = gaps[(gaps["start"] != "general") & (gaps["latents"] == 0)]
    better = int((own["gap_r_gain_low"] > 0).sum())
    said = f"{better or 'none'} of {len(own)} specialised SAEs makes a reading Δ with a higher gap correlation"
    said += " than the book's"
    said = said if len(own) else "whether a specialised SAE makes a better reading Δ has not been measured"
    cut = accuracy[(accuracy["treatment"] == "retrained") & (accuracy["taken"] == TAKEN)]
    if cut.empty:
        return said + "."
    helped = int((cut["gain_low"] > 0).sum())
    return (
        f"{said}; taking {TAKEN} topic features out raises a confounded probe's accuracy in the worst cell on {helped} "
        f"of {len(cut)} kinds of features (best {cut['gain'].max():+.2f})."
    )


def gains(gaps: pd.DataFrame) -> str:
    """Of `gaps.csv`: whether a specialised SAE makes better offsets."""
    own = gaps[(gaps["start"] != "general") & gaps["latents"].isin(SHOWN)]
    if own.empty:
        return "No offset has been fitted to a specialised SAE yet."
    said = []
    for latents, part in own.groupby("latents"):
        up, down = int((part["gap_r_gain_low"] > 0).sum()), int((part["gap_r_gain_high"] < 0).sum())
        best = part.iloc[int(part["gap_r_gain"].to_numpy(float).argmax())]
        reads = f"reading {latents} latents an axis" if latents else "reading all latents"
        said.append(
            f"{reads}, {up or 'none'} of {len(part)} specialised SAEs gives a higher gap correlation than the book's "
            f"and {down or 'none'} a lower one, by intervals that leave 0 out; the best is "
            f"{called(*best[[*SAE]])} ({best['gap_r_gain']:+.3f}, {best['gap_r_gain_low']:+.3f} to "
            f"{best['gap_r_gain_high']:+.3f})"
        )
    return "; ".join(said) + "."


def highest(gaps: pd.DataFrame) -> str:
    """Of `gaps.csv`, all latents read: the highest gap correlation, and over how many seeds the rows are means."""
    own = gaps[gaps["latents"] == 0].reset_index(drop=True)
    if own.empty:
        return "No offset has been fitted to an SAE yet."
    best, seeds = own.sort_values("gap_r", kind="stable").iloc[-1], own["n_seeds"].astype(int)
    inside = int(((own["gap_r_low"] <= best["gap_r"]) & (own["gap_r_high"] >= best["gap_r"])).sum())
    least, most = seeds.min(), seeds.max()
    return (
        f"Reading all latents, the highest gap correlation is that of {called(*best[[*SAE]])} ({best['gap_r']:.3f}), "
        f"and it lies within the intervals of {inside} of {len(own)} SAEs; rows are means over "
        f"{f'{least} to {most}' if most > least else least} {'seed' if most == 1 else 'seeds'}."
    )


def needed(gaps: pd.DataFrame) -> str:
    """Of `gaps.csv`: how few latents an offset needs, with the book's SAE and with specialised ones."""
    said = []
    for kind in gaps[[*SAE]].drop_duplicates().itertuples(index=False):
        part = gaps[(gaps[[*SAE]] == pd.Series(dict(zip(SAE, kind, strict=True)))).all(axis=1)]
        of = dict(zip(part["latents"], part["gap_r"], strict=True))
        counts = sorted(count for count in of if count)
        if len(counts) > 1 and 0 in of:
            below = [place for place, count in enumerate(counts, 1) if of[count] < ENOUGH * of[0]]
            first = below[-1] if below else 0  # from which on none lies below
            fewest = str(counts[first]) if first < len(counts) else f"more than {counts[-1]}"
            said.append(f"{fewest} with {called(*kind)}")
    if not said:
        return "How few latents an offset needs has not been measured yet."
    tried = ", ".join(str(count) for count in sorted(set(gaps["latents"]) - {0}))
    return (
        f"For {ENOUGH:.0%} of the gap correlation that all latents give, an axis has to read {', '.join(said)}: the "
        f"fewest of {tried} from which on none reaches less."
    )


def perplexity(quality: pd.DataFrame) -> str:
    """Of `quality.csv`, at `MIDDLE` latents a token: the model, the book's SAE, and those trained on from it."""
    own = quality[quality["k"] == MIDDLE]
    said = []
    for place in ("text", "questions"):
        beside = _beside(own, f"perplexity_{place}", 1)
        if not beside:
            return "No SAE that was trained on has been spliced in yet."
        plain = quality.loc[quality["start"] == "model", f"perplexity_{place}"].iloc[0]
        said.append(f"on held-out {place} perplexity is {plain:.1f} with the model as it is, {beside}")
    return f"At {MIDDLE} latents a token, {'; '.join(said)}."


def unexplained(table: pd.DataFrame) -> str:
    """Of `unexplained.csv`: at text, and where offsets read and write."""
    places = {"fvu_text": "held-out text", "fvu_questions": "the tokens of held-out questions"}
    places |= {"fvu_answers": "their prompts' last"}
    said = [f"at {what} {beside}" for column, what in places.items() if (beside := _beside(table, column, 3))]
    return f"Unexplained variance is {'; '.join(said)}." if said else "No SAE has been measured yet."


def _beside(table: pd.DataFrame, column: str, digits: int) -> str:
    """The book's SAE, and the least and the most of those trained on from it by the mean loss."""
    order = table[(table["start"] == "tuned") & (table["tilt"] == 0)].sort_values(column)
    if order.empty:
        return ""
    ends = [f"{row[column]:.{digits}f} ({STRATEGY[row['strategy']]})" for _, row in order.iloc[[0, -1]].iterrows()]
    general = table.loc[table["start"] == "general", column].iloc[0]
    return f"{general:.{digits}f} with the book's SAE and, trained on, from {ends[0]} to {ends[1]}"


def spreads(dictionary: pd.DataFrame) -> str:
    """Of `dictionary.csv`: on how many tokens, evenly spread, a latent fires, and how strongly at most."""
    said = []
    for measure, what, unit in (("entropy", "entropy over tokens", " nats"), ("maximum", "strongest firing", "")):
        middle = dictionary[(dictionary["measure"] == measure) & (dictionary["place"] == "0.5")].sort_values("value")
        if len(middle) > 1:
            ends = [
                f"{row['value']:.2f}{unit} ({called(row['start'], row['strategy'], row['tilt'])})"
                for row in middle.iloc[[0, -1]].to_dict("records")
            ]
            said.append(f"{what} {ends[0]} to {ends[1]}")
    return f"In the middle of its live latents an SAE has {'; '.join(said)}." if said else "No spread is known."


def on_the_plane(table: pd.DataFrame) -> str:
    """Of `map.csv`: how little two axes show."""
    if table.empty:
        return ""
    held = table["first_explained"].iloc[0] + table["second_explained"].iloc[0]
    return f"The two axes hold {held:.1%} of the variance of the book's rows, so nearness here says little."


def tokens(dictionary: pd.DataFrame) -> str:
    """Of `dictionary.csv`: rare tokens' latents and errors, with the mean of the losses and with their tilted mean."""
    said = []
    for measure, place, what in (
        ("covered", "from 1", "tokens that stand one to three times in the pool, the share with a latent is"),
        ("error", "from 1001", "tokens beyond rank 1,000, the unexplained variance is"),
    ):
        rows = dictionary[(dictionary["measure"] == measure) & (dictionary["place"] == place)]
        of = {tuple(row[:3]): row[3] for row in rows[[*SAE, "value"]].itertuples(index=False)}
        kinds = [("general", "", 0.0), *(("tuned", "dense", tilt) for tilt in TILTS)]
        kinds = [kind for kind in kinds if kind in of]
        if kinds:
            said.append(f"Of {what} " + ", ".join(f"{of[kind]:.3f} ({called(*kind)})" for kind in kinds))
    return ". ".join(said) + "." if said else "No dictionary has been measured yet."


def rows(dictionary: pd.DataFrame) -> str:
    """Of `dictionary.csv`: how far decoder rows moved, and how far from the book's those from scratch are."""
    middle = dictionary[dictionary["place"] == "0.5"]
    of = {(*row[:3], row[3]): row[4] for row in middle[[*SAE, "measure", "value"]].itertuples(index=False)}
    said = []
    for tilt in TILTS:
        if (own := of.get(("tuned", "dense", tilt, "own"))) is not None:
            said.append(f"{own:.3f} with the row that it was trained on from ({called('tuned', 'dense', tilt)})")
    if (near := of.get(("scratch", "dense", 0.0, "cosine"))) is not None:
        said.append(f"{near:.3f} with the nearest of the book's rows ({called('scratch', 'dense')})")
    return "Half of the live rows have a cosine of at least " + ", ".join(said) + "." if said else "No rows to compare."


def labels(table: pd.DataFrame) -> str:
    """Of `labels.csv`: how well labels tell where latents fire."""
    if table.empty:
        return "No labels have been scored yet."
    said = [
        f"{row['detection']:.2f} ({row['detection_low']:.2f} to {row['detection_high']:.2f}) with "
        f"{called(row['start'], row['strategy'], row['tilt'])}"
        for row in table.to_dict("records")
    ]
    return f"Labels from half of the questions tell where latents fire in the others with a score of {', '.join(said)}."


def shift(accuracy: pd.DataFrame) -> str:
    """Of `accuracy.csv`: the worst cell as the probe comes, at best with topic features taken out and fitted anew, and
    with the oracle."""
    said = []
    for features, part in accuracy.groupby("features", sort=False):
        worst = part[part["taken"] == 0].set_index("treatment")["worst"]
        cut = part[part["treatment"] == "retrained"].sort_values("taken").to_dict("records")
        one = f"{FEATURES[str(features)]} {worst['confounded']:.2f}"
        for best in sorted(cut, key=lambda row: -row["worst"])[:1]:
            sure = "clearly more" if best["gain_low"] > 0 else "not clearly more"
            one += f", {best['worst']:.2f} without {best['taken']} ({sure})"
        said.append(f"{one}, oracle {worst['balanced']:.2f}")
    if not said:
        return "No probe has been fitted yet."
    more = {"zeroed": "without fitting the probe anew", "random": "with as many drawn at random and the probe anew"}
    best = [
        f"{words} {gains.max():+.2f}"
        for name, words in more.items()
        if len(gains := accuracy.loc[accuracy["treatment"] == name, "gain"])
    ]
    below = accuracy.loc[accuracy["treatment"] == "balanced", "worst"].max() < 0.5
    return (
        "Accuracy in the worst cell as the probe comes, at best with features taken out (more than as it comes, by the "
        f"interval of the gain), and with the oracle: {'; '.join(said)}."
        + (f" The largest gain is {' and '.join(best)}." if best else "")
        + (" The worst of four small cells lies below one half even for the oracles." if below else "")
    )


def by_cards(accuracy: pd.DataFrame) -> str:
    """Of `accuracy.csv`: how often latents chosen by their cards, taken out before the probe is fitted anew, save the
    worst cell, beside those chosen by score, the same numbers of the same SAEs."""
    index = ["features", "taken"]
    chosen = {
        name: accuracy[accuracy["treatment"] == name].set_index(index) for name in ("retrained-cards", "retrained")
    }
    cards = chosen["retrained-cards"]
    if cards.empty:
        return ""
    scores = chosen["retrained"].loc[cards.index]
    raised = [int((rows["gain_low"] > 0).sum()) for rows in (cards, scores)]
    place = int(cards["gain"].to_numpy(float).argmax())
    name, taken = cards.index.to_list()[place]
    return (
        f"Chosen by their cards alone, latents that are taken out raise the worst cell in {raised[0] or 'none'} of "
        f"{len(cards)} cases, by an interval of the gain, and chosen by score in {raised[1] or 'none'}; the best gain "
        f"by cards is {cards['gain'].iloc[place]:+.2f}, without {taken} on {FEATURES[str(name)]}."
    )
