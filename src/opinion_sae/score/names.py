"""What each method is called: the one table of names that tables, figures, claims and prose share."""

from __future__ import annotations

from typing import NamedTuple


class Name(NamedTuple):
    """The names of a method whose rows in tables have this entry's key."""

    label: str  # in figures and in lists
    prose: str  # within a sentence


# in the order of tables and figures
NAMES = {
    "unsteered": Name("unsteered model", "the unsteered model"),
    "toplines": Name("toplines", "the toplines"),
    "uniform": Name("equal shares", "equal shares"),
    "shared-delta": Name("Δ_shared", "Δ_shared alone"),
    "delta": Name("Δ", "Δ"),
    "delta-selected": Name("Δ, doses and γ chosen", "Δ with doses and γ chosen on validation"),
    "delta-joint": Name("Δ, SAE trained along", "Δ with the SAE trained along"),
    "dense": Name("dense vector", "the dense vector"),
    "position-prior": Name("people's place preference", "people's place preference"),
    "delta-reading": Name("reading Δ", "the reading Δ"),
    "delta-reading-64": Name("reading Δ, 64 latents per axis", "the reading Δ with 64 latents per axis"),
    "delta-reading-joint": Name("reading Δ, SAE trained along", "the reading Δ with the SAE trained along"),
    "dense-reading": Name("dense reading", "dense reading"),
    "shuffled-questions": Name("reading Δ, questions shuffled", "the reading Δ with questions shuffled"),
    "shuffled-groups-reading": Name(
        "reading Δ, group labels shuffled", "the reading Δ fitted to shuffled group labels"
    ),
    "random-dictionary": Name("reading Δ, random dictionary", "the reading Δ with a random dictionary"),
    "random-read-latents": Name("reading Δ, random latents read", "the reading Δ that reads random latents"),
    "words": Name("words", "the read-out of words"),
    "words+direct": Name("words and latents, read only", "the read-out of words and latents together"),
    "embedding": Name("sentence embedding", "the read-out of a sentence embedding"),
    "embedding+direct": Name(
        "sentence embedding and latents, read only", "the read-out of a sentence embedding and latents together"
    ),
    "direct": Name("latents, read only", "the read-out of latents"),
    "direct-dense": Name("mean stream, read only", "the read-out of the mean stream"),
    "direct-dense-last": Name("last token's stream, read only", "the read-out of the last token's stream"),
    "direct-shuffled": Name(
        "latents, read only, questions shuffled", "the read-out of latents with questions shuffled"
    ),
    "calibrated": Name("temperature and biases", "temperature and biases"),
    "calibrated-shared": Name(
        "temperature and biases, one for all groups", "temperature and biases, one for all groups"
    ),
    "unembedding": Name("trained unembedding", "the trained unembedding"),
    "probe": Name("linear probe", "the linear probe"),
    "diff-means": Name("difference of persona means", "the difference of persona means"),
    "prompt-best": Name("persona prompt, best style", "the persona prompt in the style chosen on validation"),
    "few-shot": Name("examples in the prompt", "examples of the group's answers in the prompt"),
    "prompt-toplines": Name("persona prompt with toplines", "the persona prompt that tells the toplines"),
    "persona-vector": Name("persona vector", "the persona vector"),
    "cast": Name("conditional vector (CAST)", "the conditional vector of CAST"),
    "loreft": Name("LoReFT", "LoReFT"),
    "yapo": Name("sparse vector (YaPO)", "the sparse vector of YaPO"),
    "output-score": Name("persona latents by output score", "the persona's latents of high output score"),
    "output-score-fitted": Name("latents by output score, fitted", "the fitted latents of the highest output scores"),
    "sae-ssv": Name("latents by probe (SAE-SSV)", "the latents chosen by SAE-SSV's probe"),
    "corrsteer": Name("latents by outcome (CorrSteer)", "the latents that CorrSteer chooses"),
    "tier-constant": Name("persona latents, always", "the persona's latents, steered always"),
    "tier-prompt": Name("persona latents, by prompt", "the persona's latents, steered where the prompt fires them"),
    "tier-token": Name("persona latents, by token", "the persona's latents, steered where the token fires them"),
    "gain-option-ends": Name("factors at option ends", "the factors on latents at option ends"),
    "delta-purified": Name("Δ, purified", "Δ without what other attributes share"),
    "direct-mean": Name("latents, mean, read only", "the read-out of mean latents"),
    "direct-max": Name("latents, maximum, read only", "the read-out of maximum latents"),
    "direct-binary": Name("latents, firing or not, read only", "the read-out of which latents fire"),
    "gpo": Name("in-context predictor (GPO)", "the in-context predictor of GPO"),
    "lora": Name("LoRA", "LoRA over prompts that name the group"),
    "shuffled-groups": Name("Δ, group labels shuffled", "Δ fitted to shuffled group labels"),
    "permuted-decoder": Name("Δ_shared, decoder permuted", "Δ_shared fitted with the decoder permuted"),
    "random-latents": Name("Δ on random latents", "Δ on random latents"),
    "sign-flip": Name("Δ, sign flipped", "Δ with its sign flipped"),
    "everyone": Name("all respondents", "all respondents together"),
    "floor": Name("noise floor", "the noise floor"),
    "delta-by-survey": Name("Δ from the other survey", "Δ fitted to the other survey"),
    "delta-by-topic": Name("Δ from other topics", "Δ fitted to other topics"),
    "delta-half": Name("Δ at half strength", "Δ at half strength"),
    "left-out-shared": Name("Δ_shared, group left out", "Δ_shared fitted without the group"),
    "left-out-sibling": Name(
        "siblings' Δ, group left out", "its attribute's other groups' Δ, fitted without the group"
    ),
    "other-delta": Name("other groups' Δ", "the other groups' Δ"),
    "prompt-bio": Name("persona prompt, sentence", "the persona prompt as a sentence"),
    "prompt-portray": Name("persona prompt, instruction", "the persona prompt as an instruction"),
    "prompt-qa": Name("persona prompt, question", "the persona prompt as a question"),
    "random-latents-deviation": Name("Δ, own part on random latents", "Δ with its own part on random latents"),
    "shared-delta-by-survey": Name("Δ_shared from the other survey", "Δ_shared fitted to the other survey"),
    "shared-delta-by-topic": Name("Δ_shared from other topics", "Δ_shared fitted to other topics"),
    "sibling-delta": Name("siblings' Δ", "the Δ of its attribute's other groups"),
    "sign-flip-deviation": Name("Δ, own part's sign flipped", "Δ with its own part's sign flipped"),
}
NAMES |= {
    f"{method}-by-{split}": Name(f"{NAMES[method].label}, {short}", f"{NAMES[method].prose} fitted to {long}")
    for method in (
        "delta-reading",
        "delta-reading-64",
        "dense-reading",
        "words",
        "direct",
        "direct-shuffled",
        "words+direct",
    )
    for split, short, long in (
        ("survey", "from the other survey", "the other survey"),
        ("topic", "from other topics", "other topics"),
    )
}


def label(method: str) -> str:
    """What a figure calls the method; its key if it has no entry, as a method of somebody's own."""
    return NAMES[method].label if method in NAMES else method


def prose(method: str) -> str:
    """What a sentence calls the method; KeyError if it has no entry."""
    return NAMES[method].prose


def rank(method: str) -> tuple[int, str]:
    """Order of the methods in tables and figures: as in `NAMES`, then by key."""
    names = list(NAMES)
    return (names.index(method) if method in names else len(names), method)


def measure_of(method: str) -> str:
    """The column of a `dose_curve` by which a method's strength is judged: an offset that reads the question is made
    for the task from toplines."""
    return "kl_toplines" if "reading" in method else "kl"
