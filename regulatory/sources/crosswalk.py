"""Checklists of others, item by item: where the regulatory file answers it, or why it does not.

A list is a file in regulatory/crosswalks. An item has `at` (pages, with a heading's anchor where there is one), `at`
and `missing` (answered in part), `not_met` (reason) or `not_applicable` (reason). That a heading is there is checked by
the build, which follows every link.
"""

import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from regulatory.figures import Figure, Material, Table, Text
from regulatory.pages import PAGES

FOLDER = "regulatory/crosswalks"
LISTS = ("cfr_892_2080", "fda_ai_lifecycle", "gmlp", "claim_2024", "tripod_ai", "stard_ai", "course")
ANSWERS = ("met", "met in part", "not met", "not applicable")
_KEYS = {"id", "text", "at", "missing", "not_met", "not_applicable"}


def gather(root: Path) -> Material:
    """Return every list as a table with its counts, and a table of all lists."""
    titles = {page.file: page.title for page in PAGES}
    figures: list[Figure] = []
    tables: list[Table] = []
    texts: list[Text] = []
    totals: list[tuple[str, ...]] = []
    for name in LISTS:
        source = f"{FOLDER}/{name}.toml"
        stated = tomllib.loads((root / source).read_text("utf-8"))
        rows = [_row(source, item, titles) for item in stated["item"]]
        counts = Counter(row[2] for row in rows)
        tables.append(
            Table(
                f"crosswalk.{name}",
                stated["title"],
                ("item", "subject, in our words", "answer", "where, or why not"),
                tuple(rows),
                source,
                "item",
            )
        )
        texts.append(Text(f"crosswalk.{name}.about", _about(stated), source))
        figures += [
            Figure(
                f"crosswalk.{name}.{answer.replace(' ', '-')}",
                counts[answer],
                str(counts[answer]),
                source,
                "item",
                says=f"items of {stated['title']} that are {answer}",
            )
            for answer in ANSWERS
        ]
        figures.append(
            Figure(f"crosswalk.{name}.items", len(rows), str(len(rows)), source, "item", says="items of that list")
        )
        totals.append((stated["title"], *(str(counts[answer]) for answer in ANSWERS), str(len(rows))))
    tables.append(
        Table(
            "crosswalk.all",
            "Checklists and how far they are met",
            ("checklist", *ANSWERS, "items"),
            tuple(totals),
            ", ".join(f"{FOLDER}/{name}.toml" for name in LISTS),
            numeric=(1, 2, 3, 4, 5),
        )
    )
    tables.append(_defects(root))
    return Material(figures=tuple(figures), tables=tuple(tables), texts=tuple(texts))


def _about(stated: Mapping[str, Any]) -> str:
    return f"Source: {stated['source']}.\n\nHow the items were taken over: {stated['checked']}"


def _row(source: str, item: Mapping[str, Any], titles: Mapping[str, str]) -> tuple[str, str, str, str]:
    """Return an item's row.

    Raises
    ------
    ValueError
        An item with no answer, with two, or with an unknown key.
    """
    where = f"{source}: item {item.get('id')!r}"
    unknown = sorted(set(item) - _KEYS)
    answers = [key for key in ("at", "not_met", "not_applicable") if item.get(key)]
    if unknown or len(answers) != 1 or ("missing" in item and "at" not in item):
        raise ValueError(
            f"{where}: found {sorted(item)}, expected id, text and one of at (with or without missing), not_met, "
            "not_applicable"
        )
    if "at" not in item:
        answer = "not met" if "not_met" in item else "not applicable"
        return item["id"], item["text"], answer, item["not_met" if answer == "not met" else "not_applicable"]
    links = list(_links(item["at"], titles))
    absent = [link for found, link in links if not found]
    told = "; ".join(link for _, link in links)
    if absent:
        return item["id"], item["text"], "not met", f"{told}: no such page is made"
    if item.get("missing"):
        return item["id"], item["text"], "met in part", f"{told}. Missing: {item['missing']}"
    return item["id"], item["text"], "met", told


def _links(anchors: list[str], titles: Mapping[str, str]) -> Iterator[tuple[bool, str]]:
    for anchor in anchors:
        page, _, heading = anchor.partition("#")
        if page not in titles:
            yield False, f"`{page}`"
            continue
        shown = f"{titles[page]}: {heading.replace('-', ' ')}" if heading else titles[page]
        yield True, f"[{shown}](page:{anchor})"


def _defects(root: Path) -> Table:
    source = f"{FOLDER}/course.toml"
    stated = tomllib.loads((root / source).read_text("utf-8"))
    rows = []
    for item in stated["defect"]:
        if not (root / item["test"]).is_file():
            raise ValueError(f"{source}: the defect {item['found']!r} names {item['test']}, which is no file")
        rows.append((item["found"], item["here"], f"[`{item['test']}`](repo:{item['test']})"))
    return Table(
        "crosswalk.defects",
        "Defects of finished submissions, and what keeps them out here",
        ("found in submissions", "here", "test"),
        tuple(rows),
        source,
        "defect",
    )
