"""One name for one group: what the surveys' own names for attributes and groups are called here."""

from __future__ import annotations

from collections.abc import Iterable

# Attribute -> group -> other names of the same group in the surveys that are read here. The order
# is the order in which groups are shown, and in which the names of an intersection are joined.
GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "party": {
        "Democrat": ("Dem", "Dems", "Democrats", "Democratic", "Democratic Party"),
        "Independent": ("Ind", "Independents", "No party"),
        "Republican": ("Rep", "Reps", "GOP", "Republicans", "Republican Party"),
        "Other party": ("Other", "Something else", "Another party"),
    },
    "ideology": {
        "Very liberal": (),
        "Liberal": ("Liberals",),
        "Moderate": ("Moderates", "Middle of the road"),
        "Conservative": ("Conservatives",),
        "Very conservative": (),
    },
    "race": {
        "White": ("White non-Hispanic", "White, non-Hispanic"),
        "Black": ("Black non-Hispanic", "Black, non-Hispanic", "African American"),
        "Hispanic": ("Latino", "Hispanic or Latino"),
        "Asian": ("Asian non-Hispanic", "Asian, non-Hispanic", "Asian American"),
        "Mixed race": ("Mixed", "Two or more races"),
        "Other race": ("Other", "Other/Mixed", "Some other race"),
    },
    "sex": {
        "Female": ("Woman", "Women", "F", "Females"),
        "Male": ("Man", "Men", "M", "Males"),
        "Other gender": ("In some other way", "Other"),
    },
    "age": {
        "18-29": ("18 to 29", "Under 30"),
        "30-49": ("30 to 49",),
        "50-64": ("50 to 64",),
        "65+": ("65 and over", "65 or older", "65 and older", "65 plus"),
    },
    "education": {
        "Less than high school": ("Less than HS",),
        "High school or less": (
            "HS or less",
            "High school graduate or less",
            "H.S. graduate or less",
        ),
        "High school graduate": ("HS graduate",),
        "Some college": ("Some College",),
        "Some college, no degree": (),
        "Associate's degree": ("Associates degree",),
        "College graduate": ("College", "College graduate+", "College grad", "Bachelor's or more"),
        "College graduate/some postgrad": ("College graduate/some post grad",),
        "Postgraduate": ("Post-graduate",),
    },
    "income": {
        "Lower income": ("Lower", "Low income"),
        "Middle income": ("Middle",),
        "Upper income": ("Upper", "High income"),
        "Less than $30,000": ("<$30,000",),
        "$30,000-$50,000": ("$30,000-$49,999", "$30,000 to less than $50,000"),
        "$50,000-$75,000": ("$50,000-$74,999",),
        "$75,000-$100,000": ("$75,000-$99,999",),
        "$100,000 or more": ("$100,000+",),
    },
    "region": {"Northeast": (), "Midwest": (), "South": (), "West": ()},
    "religion": {
        "Protestant": (),
        "Roman Catholic": ("Catholic",),
        "Other religion": ("Other",),
        "No religion": (),
    },
    "religious attendance": {
        "More than once a week": (),
        "Once a week": (),
        "Weekly or nearly so": (),
        "Once or twice a month": (),
        "Monthly or a few times a year": (),
        "A few times a year": (),
        "Seldom": (),
        "Never": (),
    },
    "marital status": {},
    "citizenship": {"Citizen": ("Yes",), "Not a citizen": ("No",)},
    "country": {},
}

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "party": ("polparty", "partyid", "political party"),
    "ideology": ("polideology", "polviews", "political ideology"),
    "race": ("racecmb", "ethnicity"),
    "sex": ("gender",),
    "age": ("agecat",),
    "education": ("educ",),
    "income": ("income_cat",),
    "region": ("cregion",),
    "religion": ("relig",),
    "religious attendance": ("religattend",),
    "marital status": ("marital",),
    "citizenship": ("citizen",),
}

EVERYONE = ("all", "everyone")  # attribute and group of all respondents taken together

_GROUP_OF = {
    attribute: {other.casefold(): group for group, others in groups.items() for other in (group, *others)}
    for attribute, groups in GROUPS.items()
}
_ATTRIBUTE_OF = {
    other.casefold(): attribute for attribute, others in ATTRIBUTES.items() for other in (attribute, *others)
}


def canonical_attribute(attribute: str) -> str:
    """This project's name of an attribute: POLPARTY -> party, "sex x party" -> "party x sex".

    An attribute that the table does not know keeps its name. The parts of an intersection are put
    in the order of GROUPS, unknown ones last by name.
    """
    parts = [_ATTRIBUTE_OF.get(p.strip().casefold(), p.strip()) for p in attribute.split(" x ")]
    order = {name: i for i, name in enumerate(GROUPS)}
    return " x ".join(sorted(parts, key=lambda p: (order.get(p, len(order)), p)))


def canonical_group(attribute: str, group: str) -> str:
    """This project's name of a group of a (canonical, single) attribute: party, "Dem" -> Democrat.

    A group that the table does not know keeps its name.
    """
    return _GROUP_OF.get(attribute, {}).get(group.strip().casefold(), group.strip())


def canonical(attribute: str, group: str) -> tuple[str, str]:
    """Both names of an attribute's group: ("sex x POLPARTY", "Man & Dem") -> ("party x sex",
    "Democrat & Male").

    ValueError unless an intersection's group has one name for each of its attributes.
    """
    parts = [canonical_attribute(part) for part in attribute.split(" x ")]
    names = group.split(" & ") if len(parts) > 1 else [group]
    if len(names) != len(parts) or len(set(parts)) < len(parts):
        raise ValueError(
            f"attribute {attribute!r}, group {group!r}: one group of each different attribute is "
            'needed, joined by " & "'
        )
    named = {part: canonical_group(part, name) for part, name in zip(parts, names, strict=True)}
    together = canonical_attribute(" x ".join(parts))
    return together, " & ".join(named[part] for part in together.split(" x "))


def in_order(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """(attribute, group) pairs, each once, in the order of GROUPS; unknown ones last, as they came.

    Intersections follow the single attributes.
    """
    attributes, known = list(GROUPS), {a: list(g) for a, g in GROUPS.items()}
    seen = list(dict.fromkeys(pairs))

    def rank(pair: tuple[str, str]) -> tuple:
        parts = pair[0].split(" x ")
        names = pair[1].split(" & ") if len(parts) > 1 else [pair[1]]
        places = [attributes.index(p) if p in attributes else len(attributes) for p in parts]
        both = zip(parts, names, strict=False)
        within = [known[p].index(n) if n in known.get(p, ()) else len(known.get(p, ())) for p, n in both]
        return len(parts), places, pair[0], within, seen.index(pair)

    return sorted(seen, key=rank)
