"""Slides for readers without statistics: what was done, with which data, how good in plain words, what it cannot do."""

from collections.abc import Mapping
from typing import Any

from trainer.report.comparison import baseline_name
from trainer.report.deck import ACCENT, EDGE, FLAG, WIDTH, Deck
from trainer.report.evaluation import beats_baselines, criterion_name, main_set
from trainer.report.forest import GROUPS
from trainer.report.pdf import MUTED
from trainer.report.words import (
    NOT_MEASURED,
    count,
    estimate,
    finding_name,
    interval,
    mapping,
    number,
    of_hundred,
    percent,
    plain,
    rows_of,
    value_of,
)

_MOST_BARS = 8
_HALF = (WIDTH - 2 * EDGE - 40) / 2


def slides(evaluation: Mapping[str, Any], comparison: Mapping[str, Any], exploration: Mapping[str, Any]) -> bytes:
    """Return the slides as PDF; what a missing or empty JSON does not hold reads "not measured"."""
    finding = finding_name(evaluation.get("finding"))
    deck = Deck(f"Flagging {finding} on chest X-rays")
    _title(deck, evaluation, finding)
    _done(deck, evaluation, finding)
    _data(deck, evaluation, exploration, finding)
    _how_good(deck, evaluation, finding)
    _how_sure(deck, evaluation, finding)
    _beside_others(deck, evaluation, comparison)
    _in_practice(deck, evaluation, finding)
    _groups(deck, evaluation, finding)
    _cannot(deck, evaluation, finding)
    _reading_room(deck, evaluation, finding)
    return deck.pdf()


def people(evaluation: Mapping[str, Any]) -> str:
    """Return "children" or "adults" where the cohort's title says so, "patients" otherwise."""
    title = str(mapping(evaluation.get("cohort")).get("title", "")).lower()
    if "paediatric" in title or "pediatric" in title or "children" in title:
        return "children"
    return "adults" if "adult" in title else "patients"


def _title(deck: Deck, evaluation: Mapping[str, Any], finding: str) -> None:
    deck.slide("")
    y = deck.text(f"Flagging {finding} on chest X-rays", EDGE, 150, WIDTH - 2 * EDGE, 42, bold=True)
    y = deck.text("What was built, how well it does, and what it cannot do", EDGE, y + 10, WIDTH - 2 * EDGE, 22)
    model, cohort = mapping(evaluation.get("model")), mapping(evaluation.get("cohort"))
    named = f"Model: {model.get('name', NOT_MEASURED)}. Data: {cohort.get('title', NOT_MEASURED)}."
    deck.text(named, EDGE, y + 34, WIDTH - 2 * EDGE, 16, color=MUTED)


def _done(deck: Deck, evaluation: Mapping[str, Any], finding: str) -> None:
    y = deck.slide("What was done")
    parts = mapping(mapping(evaluation.get("cohort")).get("parts"))
    train, tune = (mapping(parts.get(part)) for part in ("train", "tune"))
    name, item = main_set(evaluation)
    set_about = f"It was then measured on {count(item.get('images'))} images (set: {name or NOT_MEASURED})."
    deck.bullets(
        [
            f"A computer program was shown {count(train.get('images'))} chest X-rays, each with a label that says "
            f"whether it shows {finding}. From these it learned to give every new image a score.",
            f"{count(tune.get('images'))} other images settled from which score on an image is flagged. That line was "
            "then left alone.",
            set_about
            if evaluation.get("part") != "tune"
            else f"{set_about} These are the images that settled the "
            "line, so the figures are kinder than those of a new hospital would be.",
            "No patient is in two of these groups, as far as the source of the images tells.",
            "The program does one thing: it puts a flag on an image, so that a radiologist may look at it sooner.",
        ],
        y,
    )


def _data(deck: Deck, evaluation: Mapping[str, Any], exploration: Mapping[str, Any], finding: str) -> None:
    y = deck.slide("With which data")
    cohort = mapping(evaluation.get("cohort"))
    parts = mapping(cohort.get("parts"))
    y = deck.text(str(cohort.get("title", NOT_MEASURED)), EDGE, y, WIDTH - 2 * EDGE, 18, color=MUTED) + 16
    lowest = y
    words = {"train": "to learn from", "tune": "to settle the line", "test": "to test on"}
    for place, (part, says) in enumerate(words.items()):
        entry = mapping(parts.get(part))
        text = f"images {says}, {count(entry.get('present'))} of them with {finding}"
        lowest = max(lowest, deck.figure(count(entry.get("images")), text, EDGE + place * 290, y, 265))
    flagged = [row for row in map(mapping, rows_of(exploration.get("shortcuts"))) if row.get("flagged")]
    lines = [
        "The labels come with the images, from their source. Labels are wrong at times, and so are figures made "
        "with them.",
    ]
    if flagged:
        names = sorted({str(row.get("feature")).replace("_", " ") for row in flagged})
        lines.append(
            f"Things that are no anatomy tell the label in these data: {', '.join(names)}. A program may learn these "
            "instead of the illness, and do worse elsewhere."
        )
    elif exploration:
        lines.append("Nothing apart from anatomy that was looked at tells the label in these data by itself.")
    else:
        lines.append("Whether anything apart from anatomy tells the label in these data was not measured.")
    deck.bullets(lines, lowest + 34, 20)


def _how_good(deck: Deck, evaluation: Mapping[str, Any], finding: str) -> None:
    y = deck.slide("How good is it?")
    name, item = main_set(evaluation)
    who = people(evaluation)
    caught, spared = of_hundred(item.get("sensitivity")), of_hundred(item.get("specificity"))
    halves = (
        (EDGE, caught, FLAG, f"Of 100 X-rays of {who} with {finding}", "it flags", "and misses"),
        (
            EDGE + _HALF + 40,
            None if spared is None else 100 - spared,
            ACCENT,
            f"Of 100 X-rays of {who} without {finding}",
            "it flags, wrongly,",
            "and leaves alone",
        ),
    )
    # Both fields of dots begin at one height, whichever heading is the longer.
    top = y + max(deck.height(heading, _HALF, 18, bold=True) for _, _, _, heading, _, _ in halves) + 12
    for x, flagged, color, heading, flags, rest in halves:
        deck.text(heading, x, y, _HALF, 18, bold=True)
        if flagged is None:
            deck.text(f"{flags} a number that was {NOT_MEASURED}", x, top, _HALF, 20, color=MUTED)
            continue
        deck.dots(flagged, x, top, 230, color)
        below = deck.text(flags, x + 254, top + 20, _HALF - 254, 16, color=MUTED)
        below = deck.text(str(flagged), x + 254, below, _HALF - 254, 44, bold=True, color=color)
        below = deck.text(rest, x + 254, below + 12, _HALF - 254, 16, color=MUTED)
        deck.text(str(100 - flagged), x + 254, below, _HALF - 254, 28, bold=True)
    deck.text(
        f"Rounded to whole images. Set: {name or NOT_MEASURED}, {count(item.get('images'))} images. "
        f"{item.get('says', '')}",
        EDGE,
        y + 312,
        WIDTH - 2 * EDGE,
        14,
        color=MUTED,
    )


def _how_sure(deck: Deck, evaluation: Mapping[str, Any], finding: str) -> None:
    y = deck.slide("How sure are these numbers?")
    _, item = main_set(evaluation)
    lines = []
    for key, words in (
        ("sensitivity", f"Images with {finding} that it flags"),
        ("specificity", f"Images without {finding} that it leaves alone"),
    ):
        found, limits = value_of(item.get(key)), interval(item.get(key))
        if found is None:
            lines.append(f"{words}: {NOT_MEASURED}.")
        elif limits:
            lines.append(
                f"{words}: {percent(found)}. With other patients of the same kind, between {percent(limits[0])} and "
                f"{percent(limits[1])} would be no surprise."
            )
        else:
            lines.append(f"{words}: {percent(found)}; how sure that is was {NOT_MEASURED}.")
    ranked = value_of(item.get("auc"))
    lines.append(
        f"Shown one image with {finding} and one without, it gives the higher score to the right one: {NOT_MEASURED}."
        if ranked is None
        else f"Shown one image with {finding} and one without, it gives the higher score to the right one "
        f"{percent(ranked)} of the time. Tossing a coin gives 50 %. (Experts call this AUC: "
        f"{estimate(item.get('auc'))}.)"
    )
    criteria = [mapping(row) for row in rows_of(evaluation.get("criteria"))]
    for row in criteria[:3]:
        word = {True: "met", False: "not met"}.get(row.get("passed"), NOT_MEASURED)  # type: ignore[arg-type]
        lines.append(f"Aim set beforehand: {criterion_name(row)}. Found: {plain(row.get('found'))}: {word}.")
    if not criteria:
        lines.append("No aims set beforehand are recorded.")
    deck.bullets(lines, y)


def _beside_others(deck: Deck, evaluation: Mapping[str, Any], comparison: Mapping[str, Any]) -> None:
    y = deck.slide("Better than simple guesses?")
    rows = [
        (str(row.get("name", "unnamed")), value, str(row.get("kind")))
        for row in map(mapping, rows_of(comparison.get("rows")))
        if (value := value_of(row.get("auc"))) is not None and row.get("kind") != "published"
    ]
    if not rows:
        own = value_of(main_set(evaluation)[1].get("auc"))
        if own is not None:
            rows.append((str(mapping(evaluation.get("model")).get("name", "this model")), own, "ours"))
        rows += [
            (str(name), value, "baseline")
            for name, entry in mapping(evaluation.get("baselines")).items()
            if (value := value_of(mapping(entry).get("auc"))) is not None
        ]
    if len(rows) < 2:
        deck.text(f"A comparison with simple guesses was {NOT_MEASURED}.", EDGE, y, WIDTH - 2 * EDGE, 20, color=MUTED)
        return
    ordered = sorted(rows, key=lambda row: -row[1])[:_MOST_BARS]
    start = min(0.5, *(row[1] for row in ordered))
    text = (
        "How often the right image of two gets the higher score. Blue: trained; gray: simple guess. "
        f"Bars start at {percent(start, 0)}; a coin has 50 %."
    )
    y = deck.text(text, EDGE, y, WIDTH - 2 * EDGE, 16, color=MUTED) + 14
    bars = [(name, value, percent(value), ACCENT if kind == "ours" else MUTED) for name, value, kind in ordered]
    y = deck.bars(bars, y, start=start, end=1.0) + 10
    verdict = _verdict(evaluation, comparison)
    deck.text(verdict, EDGE, y, WIDTH - 2 * EDGE, 16, bold=True)


def _verdict(evaluation: Mapping[str, Any], comparison: Mapping[str, Any]) -> str:
    passed = mapping(comparison.get("gate")).get("passed")
    best: Any = baseline_name(mapping(comparison.get("gate")).get("best_baseline"))
    if not isinstance(passed, bool):
        found = beats_baselines(evaluation)
        if found is None:
            return f"Whether it is surely better than the best simple guess was {NOT_MEASURED}."
        best, passed = found
    sure = "It is better than the best simple guess" if passed else "It is not surely better than the best simple guess"
    return f"{sure} ({best}), chance allowed for."


def _in_practice(deck: Deck, evaluation: Mapping[str, Any], finding: str) -> None:
    y = deck.slide("What a flag means depends on how many are ill")
    _, item = main_set(evaluation)
    rows = []
    for name, entry in mapping(item.get("predictive_values")).items():
        try:
            prevalence = float(name)
        except ValueError:
            continue
        ppv = number(mapping(entry).get("ppv"))
        if ppv is not None:
            rows.append((f"where {100 * prevalence:g} of 100 have it", ppv, f"{of_hundred(ppv)} of 100", FLAG))
    if not rows:
        deck.text(f"What a flag means at stated rates was {NOT_MEASURED}.", EDGE, y, WIDTH - 2 * EDGE, 20, color=MUTED)
        return
    text = f"Of 100 flagged images, so many really show {finding}. The rest are false alarms."
    y = deck.text(text, EDGE, y, WIDTH - 2 * EDGE, 18) + 20
    y = deck.bars(rows, y, start=0.0, end=1.0) + 22
    deck.text(
        "The fewer are ill, the more of the flags are false alarms, however good the program. An image without a flag "
        f"can still show {finding}: every image is read.",
        EDGE,
        y,
        WIDTH - 2 * EDGE,
        17,
        bold=True,
    )


def _groups(deck: Deck, evaluation: Mapping[str, Any], finding: str) -> None:
    y = deck.slide("Does it work for everybody?")
    _, item = main_set(evaluation)
    lines = []
    measured, few = [], 0
    for key, members in mapping(item.get("subgroups")).items():
        for name, entry in mapping(members).items():
            value = value_of(mapping(entry).get("sensitivity"))
            few += bool(mapping(entry).get("too_few"))
            if value is not None:
                measured.append((value, f"{GROUPS.get(key, key).lower()}: {str(name).replace('_', ' ')}"))
    if measured:
        low, high = min(measured), max(measured)
        lines.append(
            f"In {len(measured)} groups (such as by sex, age or view) it was measured apart. It flags "
            f"{percent(low[0])} of those with {finding} in the group where it does worst ({low[1]}) and "
            f"{percent(high[0])} where it does best ({high[1]})."
        )
    else:
        lines.append(f"How well it does by sex, age or view was {NOT_MEASURED}.")
    if few:
        lines.append(f"Groups with too few images to say anything: {few}.")
    own = value_of(item.get("auc"))
    for other in mapping(evaluation.get("cross_population")).values():
        value = value_of(mapping(other).get("auc"))
        if value is None:
            continue
        beside = "" if own is None else f", against {percent(own)} on the images it is meant for"
        lines.append(
            f"On patients it is not meant for, the higher score goes to the right image {percent(value)} of the "
            f"time{beside}. It is not to be used there."
        )
    if not mapping(evaluation.get("cross_population")):
        lines.append("Patients of another kind were not tried.")
    lines.append("Other hospitals and other X-ray machines were not tried, apart from what is named here.")
    deck.bullets(lines, y)


def _cannot(deck: Deck, evaluation: Mapping[str, Any], finding: str) -> None:
    y = deck.slide("What it cannot do")
    not_run = [str(line) for line in rows_of(evaluation.get("not_run"))][:3]
    deck.bullets(
        [
            f"It cannot tell that a patient is well. No flag does not mean no {finding}.",
            "It does not say where on the image something is, and it makes no diagnosis.",
            f"It looks for {finding} only. It says nothing of other illnesses on the same image.",
            "It was held against labels of the data set, and labels are wrong at times.",
            "No radiologist has tried it at work: nobody knows yet whether it saves time.",
            *(f"Not done: {line}." if not line.endswith(".") else f"Not done: {line}" for line in not_run),
        ],
        y,
    )


def _reading_room(deck: Deck, evaluation: Mapping[str, Any], finding: str) -> None:
    y = deck.slide("What it means for the reading room")
    _, item = main_set(evaluation)
    missed = of_hundred(item.get("sensitivity"))
    miss = (
        f"How many images with {finding} get no flag was {NOT_MEASURED}."
        if missed is None
        else f"About {100 - missed} of 100 images with {finding} get no flag. They wait as long as today, or a little "
        "longer while flagged ones are read first."
    )
    deck.bullets(
        [
            "A flag may bring an image forward in the list. No image leaves the list, and none is put back.",
            "The radiologist reads every image, flagged or not, and decides.",
            miss,
            "Before any use with patients: a study with the hospital's own images, readers at work, and clearance by "
            "the authorities. None of that has happened.",
        ],
        y,
    )
