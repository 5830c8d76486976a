"""Survey gss: every code, label and option agree, no scale is turned round, and the counts derive again."""

import csv
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from opinion_sae.survey import load_survey, question_clusters
from opinion_sae.survey.load import SHIPPED

# Where an option is not the source's label word for word: label => option, each pair read and judged by hand.
# ("can't trust" is a slip in the source for "can trust", and "first law", "second law" are NORC's codebook's.)
RENDERED = """
spend same => Spend the same
government => The government
private companies/for-profit organizations => For-profit companies
non-profit organizations/charities/cooperatives => Charities and other non-profit organizations
strongly in favor of => Strongly in favor
policies in america depend on what is happening in the world economy, rather than who is in government =>
    More on what happens in the world economy
policies in america depend more on who is in government, rather than what is happening in the world economy =>
    More on who is in government
i would be less likely to buy from an employee-owned company => Less likely
i would be neither more nor less likely to buy from an employee-owned company => Neither more nor less likely
i would be more likely to buy from an employee-owned company => More likely
a company in which the government owns the stock and appoints the management to run the company's operations =>
    One that the government owns and runs
a company whose stock is owned by the employees who appoint the management to run the company's operations =>
    One that its employees own and run
a company whose stock is owned by outside investors who appoint the management to run the company's operations =>
    One that outside investors own and run
i would definitely take the job without the esop (employee stock ownership plan) or cash profit sharing =>
    Definitely the one without a share
i would probably take the job without the esop (employee stock ownership plan) or cash profit sharing =>
    Probably the one without a share
i would be neutral => Neutral
i would probably take the job with the esop (employee stock ownership plan) or cash profit sharing =>
    Probably the one with a share
i would definitely take the job with the esop (employee stock ownership plan) or cash profit sharing =>
    Definitely the one with a share
the government should reduce income differences => 1 (it should reduce them)
the government should not concern itself with reducing income differences =>
    7 (it should not concern itself with them)
government should do more => 1 (the government should do more)
agree with both => 3 (agree with both)
government does too much => 5 (the government does too much)
government should help => 1 (the government should help)
people should help themselves => 5 (people should help themselves)
people should care for themselves => 5 (people should care for themselves)
hard work most important => Hard work most
hard work, luck equally important => Hard work and luck equally
luck most important => Luck most
yes, allowed to speak => Yes, allowed
yes, allowed to teach => Yes, allowed
remove => Remove it
not remove => Do not remove it
definitely should have right => Definitely should have the right
probably should have right => Probably should have the right
probably should not have right => Probably should not have the right
definitely should not have right => Definitely should not have the right
follow conscience on occassions => Follow conscience on occasion
convict an innocent person => Convicting an innocent person
let a guilty person go free => Letting a guilty person go free
a woman and her medical professional should decide => The woman and her medical professional
the government should decide => The government
there should be laws against the distribution of pornography whatever the age => Forbid it whatever a person's age
there should be laws against the distribution of pornography to persons under 18 =>
    Forbid it to persons under 18 only
there should be no laws forbidding the distribution of pornography => No laws that forbid it
strongly favor => Strongly in favor
not strongly favor => In favor, but not strongly
not strongly oppose => Opposed, but not strongly
strongly oppose => Strongly opposed
depends => It depends
first => Most important of the five
fifth => Least important of the five
strongly favors => Strongly in favor
not strongly favors => In favor, but not strongly
not strongly opposes => Opposed, but not strongly
strongly opposes => Strongly opposed
no special treatment => 5 (no special treatment)
first law => The law that lets owners refuse
neither => Neither law
second law => The law that does not let owners refuse
unintelligent => 1 (unintelligent)
intelligent => 7 (intelligent)
1 - hard-working => 1 (hard-working)
7 - lazy => 7 (lazy)
1 - rich => 1 (rich)
7 - poor => 7 (poor)
can't trust => Most people can be trusted
can't be too careful => You cannot be too careful
people can almost always be trusted => Almost always can be trusted
people can usually be trusted => Usually can be trusted
you usually can't be too careful in dealing with people => Usually cannot be too careful
you almost always can't be too careful in dealing with people => Almost always cannot be too careful
would take advantage of you => They would take advantage of you
would try to be fair => They would try to be fair
try to take advantage almost all of the time => Take advantage almost all of the time
try to take advantage most of the time => Take advantage most of the time
neither => Neither agree nor disagree
don't believe => I do not believe in God
don't know, no way to find out => I do not know, and there is no way to find out
higher power => I believe in a higher power of some kind
believe sometimes => I believe in God sometimes
believe with doubts => I believe in God, but with doubts
no doubts => I believe in God and have no doubts
word of god => It is the actual word of God
inspired word => It is inspired by God, but not word for word
ancient book => It is an ancient book of fables and legends
strong disagree => Strongly disagree
i don't belong to or follow any religion => I do not follow any religion
treats men and women equally => It treats men and women equally
treats men better than women => It treats men better than women
treats women better than men => It treats women better than men
benefits greater => The benefits are greater
about equal (if volunteered) => About equal
harmful results greater => The harmful results are greater
extremely dangerous for the environment => Extremely dangerous
not dangerous at all for the environment => Not dangerous at all
work the same number of hours and earn the same money => Work the same hours and earn the same money
"""
# What is known of Americans, written down before the answers were looked at: who stands nearer to the first option.
NEARER_TO_FIRST = {
    ("Liberal", "Conservative"): """
    natenvir natenviy natheal nathealy natcity natcityy nateduc nateducy natrace natracey nataid nataidy natfare
    natfarey natmass natchld natsci natenrgy natpark spenviro sphlth spschool spunemp sparts aidcol aidhouse
    aidunemp gendereq grnlaws hlthcare jobsall goveqinc equalize eqwlth incgap smallgap helpnot helppoor
    helpsick protest1 protest3 spkath spkcom spkhomo colath colhomo gunlaw grass courts abany abdefect abnomore
    abhlth abpoor abrape absingle abinspay abstate2 abhelp1 abhelp2 abhelp3 marhomo1 pillok sexeduc fechld
    fehire fejobaff discaffw affrmact racdif1 racdif3 helpblk marblk liveblks letin1a letdie1 suicide1 relgenbar
    religcon religint relpast clergvte churhpow prayer muslims atheists scientbe consci advfront trdunion
    strngun conlabor conpress coneduc tempgen indusgen chemgen watergen intenvir taxpoor relmarry divlaw
    """,
    ("Conservative", "Liberal"): """
    natarms natarmsy natcrime natcrimy sparms sppolice cutgovt lessreg taxrich govlazy colcom libath libcom
    libhomo cappun abpoorw abmoral premarsx homosex homosex1 teensex xmarsex pornlaw spanking fefam hubbywrk
    fepresch fepol discaffm discaff racdif4 wrkwayup racopen bible heaven hell postlife afterlif theism godmeans
    relrlvnt comfort christns trustsci toofast unionsbd conarmy conclerg conchurh conbus obeylaw stoprndm
    tapphone wotrial polhitok polescap polattak getahead obey
    """,
    ("Weekly or nearly so", "Never"): """
    premarsx homosex homosex1 teensex xmarsex xmarsex1 abpoorw abmoral pornlaw bible heaven hell miracles
    postlife afterlif theism godmeans relrlvnt comfort makefrnd christns conclerg conchurh trustsci libath
    libhomo fefam
    """,
    ("Never", "Weekly or nearly so"): """
    god abany abdefect abnomore abhlth abpoor abrape absingle letdie1 suicide1 suicide4 marhomo1 pillok grass
    spkath colath prayer churhpow relpast religcon religint clergvte relgenbar atheists abstate2 mywaygod
    """,
    ("College graduate", "High school or less"): """
    spkath spkcom spkhomo spkmil spkrac colath colhomo natsci advfront scibnfts nanowill consci trust cantrust
    fechld intsci intspace intecon parsol poleff13 polint
    """,
    ("High school or less", "College graduate"): """
    libath libcom libhomo libmil libmslm librac colcom fefam fepol spanking scientod toofast fear astrosci
    poleff11 racdif2 nihilism fatalism fair befair finrela
    """,
}
MOSTLY_FIRST_HALF = """
    natdrug natdrugy natroad natsoc natcrime spretire aidold aidindus pricecon makejobs hlphitec taxmid tax
    brnotax verdict abhelp4 abmedgov1 abmedgov2 meovrwrk kidpars helpfrds firstyou thnkself secjob hiinc promotn
    intjob wrkindp hlpoths hlpsoc flexhrs1 wkpersnl natactive natmeet natrelax scienthe nextgen scientgo inteduc
    intmed inttech happy hapunhap life satlife kidssol parsol comfort makefrnd christns jews conmedic conarmy
    consci workhard watergen chemgen richwork wrkenjoy brlawfl genegoo2 hlthcare uswar egomeans xmarsex xmarsex1
    teensex
"""
MOSTLY_LAST_HALF = """
    polabuse polmurdr suicide2 suicide3 suicide4 popular natlack colmslm colrac givinfusa nihilism fatalism
    difrel conlegis concong contv conpress poleff16 poleff17 wotrial wlthblks wlthhsps fejobaff affrmact racdif2
    racopen wrkearn astrosci
"""


@pytest.fixture(scope="module")
def survey():
    return load_survey("gss")


@pytest.fixture(scope="module")
def items():
    with open(SHIPPED / "gss" / "items.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def places(survey):
    """Mean place on the scale from 0 to 1: of each group, and of everybody."""
    width = np.array([len(q.options) - 1 for q in survey.questions])
    options = np.arange(survey.counts.shape[2])
    return (survey.shares * options).sum(2) / width, (survey.everyone_shares * options).sum(1) / width


def test_it_is_a_survey_worth_fitting_to(survey):
    assert len(survey.questions) >= 300
    topics = Counter(q.topic for q in survey.questions)
    assert 15 <= len(topics) <= 30 and min(topics.values()) >= 5
    assert {len(q.options) for q in survey.questions} == {2, 3, 4, 5, 6, 7}
    assert [q.key for q in survey.questions if not q.ordinal] == [
        "prvdhlth",
        "prvdold",
        "prvdschl",
        "company",
        "relgeneq",
    ]
    assert len(survey.groups) == 34 and len(set(survey.attributes)) == 10
    sexes = [survey.groups.index("Female"), survey.groups.index("Male")]
    assert survey.respondents[sexes].sum(0).min() >= 500
    assert (survey.effective <= survey.respondents + 1e-6).all()


def test_every_option_is_its_code_and_its_label(survey, items):
    rendered = {tuple(pair.split(" => ")) for pair in re.sub(r" =>\n +", " => ", RENDERED).strip().splitlines()}
    used = set()
    by_key = {key: [i for i in items if i["key"] == key] for key in dict.fromkeys(i["key"] for i in items)}
    assert list(by_key) == [q.key for q in survey.questions]
    for question in survey.questions:
        rows = by_key[question.key]
        assert [int(row["option"]) for row in rows] == list(range(len(question.options))), question.key
        assert len({row["code"] for row in rows}) == len(rows), question.key
        for option, row in zip(question.options, rows, strict=True):
            label = row["code_label"]
            if label == "":  # the steps of a scale whose ends are labelled
                assert re.fullmatch(rf"{row['code']}( \(in the middle\))?", option), question.key
            elif label.casefold() != option.casefold():
                used.add((label, option))
    assert used == rendered


def test_codes_and_labels_are_the_sources(items, gss_source):
    labels = json.loads((gss_source / "gss_labels.json").read_text(encoding="utf-8"))
    for item in items:
        known = labels[item["key"]]
        assert item["years"].split() == [y for y in ("2016", "2018") if known.get(y, {"answered": 0})["answered"] > 0]
        for year in item["years"].split():
            assert known[year]["label"] == item["label"]
            assert known[year]["values"].get(item["code"], "") == item["code_label"], item


def test_both_years_count_by_their_people(survey, gss_source):
    years = [pd.read_csv(gss_source / f"gss_{year}.csv.gz", usecols=["weight", "abany"]) for year in (2016, 2018)]
    yes = sum(year.loc[year["abany"] == 1, "weight"].sum() / year["weight"].mean() for year in years)
    both = sum(year.loc[year["abany"] <= 2, "weight"].sum() / year["weight"].mean() for year in years)
    abany = [q.key for q in survey.questions].index("abany")
    assert survey.everyone_shares[abany, 0] == pytest.approx(yes / both, abs=1e-4)


@pytest.mark.parametrize(("near", "far"), NEARER_TO_FIRST)
def test_no_scale_is_turned_round(survey, near, far):
    place, _ = places(survey)
    keys = [q.key for q in survey.questions]
    named = NEARER_TO_FIRST[near, far].split()
    assert set(named) <= set(keys) and len(set(named)) == len(named)
    gap = place[survey.groups.index(far)] - place[survey.groups.index(near)]
    assert {key: gap[keys.index(key)] for key in named if gap[keys.index(key)] < 0.01} == {}


def test_most_people_are_where_they_are_known_to_be(survey):
    _, place = places(survey)
    keys = [q.key for q in survey.questions]
    assert [key for key in MOSTLY_FIRST_HALF.split() if place[keys.index(key)] > 0.48] == []
    assert [key for key in MOSTLY_LAST_HALF.split() if place[keys.index(key)] < 0.52] == []
    # NORC's and others' published shares for these years
    known = {"trust": (0, 0.32), "cappun": (0, 0.62), "grass": (0, 0.63), "gunlaw": (0, 0.71), "natfare": (2, 0.42)}
    for key, (option, share) in known.items():
        assert survey.everyone_shares[keys.index(key), option] == pytest.approx(share, abs=0.02), key


def test_two_wordings_of_a_question_are_answered_alike(survey):
    """Groups that stand out on one stand out on the other, on the same side; one pair has its scale the other way."""
    place, everyone = places(survey)
    gap = place - everyone
    named = {q.cluster for q in survey.questions} - {""}
    assert len(named) >= 25
    cluster = question_clusters(survey)
    for name in named:
        members = [i for i, q in enumerate(survey.questions) if q.cluster == name]
        assert len(members) > 1 and len(set(cluster[members])) == 1
        for a, b in zip(members, members[1:], strict=False):
            both = ~np.isnan(gap[:, a] + gap[:, b])
            r = np.corrcoef(gap[both, a], gap[both, b])[0, 1]
            turned = -1 if survey.questions[b].key == "abpoorw" else 1
            assert r * turned > 0, (survey.questions[a].key, survey.questions[b].key, r)


def test_clusters_are_pairs_and_small_families(survey):
    cluster = question_clusters(survey)
    keys = [q.key for q in survey.questions]
    for one, other in (
        ("natfare", "natfarey"),
        ("natenvir", "natenviy"),
        ("natcrime", "natcrimy"),
        ("trust", "cantrust"),
    ):
        assert cluster[keys.index(one)] == cluster[keys.index(other)]
    sizes = np.bincount(cluster)
    assert sizes.max() == 5  # the five things that a child can learn, put in order of importance
    assert len(sizes) > 0.85 * len(keys)


def topic_table() -> str:
    """The page's table of topics."""
    topics = Counter(q.topic for q in load_survey("gss").questions)
    rows = [f"| {topic} | {n} |" for topic, n in topics.items()]
    return "\n".join(["| Topic | Questions |", "| :-- | --: |", *rows, f"| *all* | {topics.total()} |"])


def group_table() -> str:
    """The page's table of groups: medians over questions."""
    survey = load_survey("gss", min_respondents=1)
    lines = ["| Attribute | Group | People | Effective people |", "| :-- | :-- | --: | --: |"]
    for g, (attribute, group) in enumerate(zip(survey.attributes, survey.groups, strict=True)):
        shown = attribute if attribute not in survey.attributes[:g] else ""
        people, effective = np.median(survey.respondents[g]), np.median(survey.effective[g])
        lines.append(f"| {shown} | {group} | {people:,.0f} | {effective:,.0f} |")
    return "\n".join(lines)


def test_the_page_counts_what_the_code_counts(survey):
    page = (Path(__file__).parents[2] / "book" / "gss.md").read_text(encoding="utf-8")
    assert topic_table() in page and group_table() in page
    assert f"{len(survey.questions)} questions about" in page
    assert len({key for keys in NEARER_TO_FIRST.values() for key in keys.split()}) >= 190
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1].replace("print(", "shown = (")
    names: dict = {}
    exec(code, names)
    assert names["shown"][1].sum() == pytest.approx(1)


def test_joined_with_the_other_survey(survey):
    both = load_survey(["gss", "nonvoters-2020"])
    assert len(both.questions) == len(survey.questions) + 46
    assert both.groups == survey.groups  # all of the poll's groups are here under the same names
