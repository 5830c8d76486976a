"""What chapters 21 and 22 say of audits, the gradient, geometry and personas turns with their tables."""

import re

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from opinion_sae.book import audit_report
from opinion_sae.book.figures.audit import audit_figure, gradient_figure, likeness_figure

STRENGTHS = (-10.0, -1.0, 0.0, 1.0, 10.0)


def audited(slope=0.01, low=-10.0, high=10.0):
    rows = []
    for latent, own in ((7, slope), (9, -0.001)):
        for strength in STRENGTHS:
            shift = own * strength
            rows.append(("read", latent, "Up; Down", 2, 5, strength, shift, shift - 0.001, shift + 0.001, 0.002, 0.001))
    names = (
        "role latent meant_for folds questions strength on_target on_target_low on_target_high off_target off_target_kl"
    )
    table = pd.DataFrame(rows, columns=names.split())
    first = table["latent"] == 7
    return table.assign(bounded_from=(low * first).where(first, 0.0), bounded_to=(high * first).where(first, 0.0))


def means(slope=0.01):
    table = pd.DataFrame({"role": "read", "strength": STRENGTHS, "latents": 2, "questions": 5, "bounded": 1})
    for name, size in (("on_target", slope), ("on_size", 0.02), ("off_target", 0.003), ("off_target_kl", 0.001)):
        value = size * (table["strength"] if name == "on_target" else table["strength"].abs())
        table = table.assign(**{name: value, f"{name}_low": value - 0.001, f"{name}_high": value + 0.001})
    return table


def test_an_audit_in_a_sentence():
    said = audit_report.audit_sentence(means(), audited(), 0.016)
    assert (
        "Of 2 latents 1 move the groups" in said
        and "+0.0100 places on average (+0.0090 to +0.0110) where they are read;" in said
    )
    assert "where they are read" not in audit_report.audit_sentence(means().assign(role="write"), audited(), 0.016)
    assert "Of 2 latents 0 move the groups" in audit_report.audit_sentence(means(0.00006), audited(0.00006), 0.016)
    assert "by +0.000060 places" in audit_report.audit_sentence(means(0.00006), audited(), 0.016)
    assert "10 times as strong by +0.100" in said and "at -10 by -0.100" in said
    assert "At 10 times those meant move by 0.200 whatever the direction, and other groups by 0.030. 1 latents" in said
    assert "at no strength 0.0001 places or more the wrong way" in said and "0.0160 nats" in said
    assert " 0 latents stay bounded" in audit_report.audit_sentence(means(), audited(low=-1.0), 0.016)
    assert audit_report.audit_sentence(means().iloc[:0], audited().iloc[:0], 0.1) == audit_report.NOTHING


def test_the_page_has_the_first_and_the_unbounded():
    axes = {("read", 7): "../latents/7.html", ("read", 9): "../latents/9.html"}
    page = audit_report.audit_page(audited(), axes, 1).html.replace("\u00a0", " ")
    row = re.sub("<[^>]+>", "|", next(line for line in page.splitlines() if "../latents/7.html" in line))
    told = [cell for cell in row.split("|") if cell]
    assert told == ["7", "Up; Down", "5", "+0.0100 (+0.0090 to +0.0110)", "+0.100", "-0.100", "from -10 to 10"]
    assert "../latents/9.html" in page and "at no strength" in page
    one = audited().assign(on_target_low=float("nan"), on_target_high=float("nan"))
    page = audit_report.audit_page(one, axes, 1).html
    assert "+0.0100 (too few questions" in page and "nan" not in page
    assert audit_report.audit_page(audited().iloc[:0], axes, 1).text == audit_report.NOTHING


def pointed(overlap=0.5, **changes):
    row = {"fold": "all", "latents": 100, "top": 10, "rank_r": 0.4, "rank_r_low": 0.3, "rank_r_high": 0.5}
    row |= {
        "overlap": overlap,
        "overlap_low": overlap - 0.1,
        "overlap_high": overlap + 0.1,
        "chance": 0.1,
        "chance_high": 0.2,
    }
    return pd.DataFrame([{"part": part, **row, "same_sign": 0.75, **changes} for part in audit_report.PARTS])


def test_the_gradient_in_a_sentence():
    said = audit_report.gradient_sentence(pointed())
    assert "points at? Beyond chance for Δ_shared of the constant Δ, " in said and "Not beyond" not in said
    assert "rank correlation 0.40 (0.30 to 0.50), and of its 10 largest latents 50% are among" in said
    assert "(40% to 60%; by chance 10%, seldom over 20%); 75% of these go the same way" in said
    assert "points at? Not beyond chance for Δ_shared" in audit_report.gradient_sentence(pointed(0.15))
    nothing = audit_report.gradient_sentence(pointed(rank_r=float("nan")))
    assert nothing.count("is not used") == 4 and "Nothing is used." in nothing and "nan" not in nothing


def lined_up(**changes):
    rows = [("straightness", "age", 0.9, 0.01), ("cosine", "party and ideology", 0.8, 0.01)]
    rows.append(("cosine", "age and party", -0.2, 0.7))
    table = pd.DataFrame(rows, columns=["statistic", "attributes", "value", "p"])
    return table.assign(of="codes", low=0.1, high=0.95, chance=0.4, **{"p_holm": 2 * table["p"]} | changes)


def test_geometry_in_a_sentence():
    said = audit_report.geometry_sentence(lined_up(), "codes")
    assert "a cosine of 0.80 (folds 0.10 to 0.95), beyond chance once corrected (p = 0.010, corrected 0.020)." in said
    assert "age 0.90 against 0.40 of random groups (p = 0.010, corrected 0.020)" in said
    assert said.endswith("Of 2 pairs of attributes 1 point the same way beyond chance (party and ideology).")
    turned = audit_report.geometry_sentence(lined_up(p_holm=0.5), "codes")
    assert "not clearly beyond chance" in turned and "0 point the same way beyond chance." in turned
    assert "No attribute" in audit_report.geometry_sentence(lined_up(), "people")


def test_a_small_p_is_not_0():
    assert audit_report.tested(0.0004, 0.2) == "p < 0.001, corrected 0.200"
    assert audit_report.tested(0.0001, 0.0009) == "p < 0.001, corrected < 0.001"


def likeness(own=0.3):
    table = pd.DataFrame({"group": ["all", "Up", "Down"], "n_questions": 9, "size_one": 0.5, "size_other": 1.0})
    for name, value in (("whole", 0.6), ("own", own)):
        table = table.assign(**{name: value, f"{name}_low": value - 0.2, f"{name}_high": value + 0.2})
    return table


def test_likeness_in_a_sentence():
    said = audit_report.likeness_sentence(likeness())
    assert "On 9 questions" in said and "0.60 (0.40 to 0.80), and 0.30 (0.10 to 0.50)" in said
    assert "2.0 times as far" in said and "move 2 groups of 2 the same way (Up, Down), and 0 in opp" in said
    assert "by uncorrected 95% intervals" in said and said.endswith(
        "of 2 such intervals about 0.1 would leave 0 out by chance."
    )
    against = audit_report.likeness_sentence(likeness(-0.3))
    assert "move 0 groups of 2 the same way, and 2 in opposite ways (Up, Down), beyond" in against


def test_the_map_tells_how_much_of_the_distance_is_covered():
    rows = [(m, fold, 0.7, by) for m, by in (("unsteered", 0.04), ("delta", 0.03)) for fold in ("all", "0")]
    near = pd.DataFrame(rows, columns=["method", "fold", "explained", "distance"])
    assert audit_report.distances_sentence(near).endswith("all groups on one spot, Δ covers 25%.")
    further = near.assign(distance=[0.04, 0.04, 0.05, 0.05])
    assert audit_report.distances_sentence(further).endswith("Δ covers -25%.")
    assert "covers" not in audit_report.distances_sentence(
        pd.concat([near[near["method"] == "delta"]] * 2).drop_duplicates()
    )


def test_distances_on_the_map_have_a_row_per_map_and_their_units():
    rows = [(m, fold, 0.5, 0.03) for fold in ("all", "0") for m in ("unsteered", "words")]
    made = audit_report.distances_page(pd.DataFrame(rows, columns=["method", "fold", "explained", "distance"]))
    heads = re.findall("<th[^>]*>([^<]*)</th>", made.html)
    assert heads == ["questions of the map", "held by the plane", "unsteered model (places)", "words (places)"]
    assert (
        re.findall("<td[^>]*>([^<]*)</td>", made.html)
        == ["all", "50%", *["0.030"] * 2, "fold 0", "50%"] + ["0.030"] * 2
    )


@pytest.mark.parametrize("rows", [slice(None), slice(0)])
def test_figures_of_something_and_of_nothing(rows):
    plt.close("all")
    figures = [
        audit_figure(audited().iloc[rows], means().iloc[rows], 0.016),
        gradient_figure(pointed().iloc[rows]),
        likeness_figure(likeness().iloc[rows]),
    ]
    for figure in figures:
        figure.draw_without_rendering()
        plt.close(figure)
