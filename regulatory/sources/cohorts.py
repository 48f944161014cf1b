"""Data cards: what each cohort holds, how it was split, what leaks, how complete and consistent its table is.

Counts come from the explorations in trainer/runs (`cxr-train eda`), the rest from regulatory/cohorts.toml.
Completeness, coverage and consistency are the three measures of FDA's data-card metadata (DIDSR, M3C), computed here on
age, sex, view and label against the intended use of the packages that learned from the cohort.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regulatory.figures import Figure, Material, Table
from regulatory.sources.records import NOT_RUN, PACKAGES, RUNS, read_json
from trainer.metrics import wilson
from trainer.report.words import count, estimate, mapping, percent, rows_of, value_of

WORDS = "regulatory/cohorts.toml"
_WORDS = {
    "citation": "source",
    "terms": "terms of use",
    "site": "where",
    "hospitals": "hospitals",
    "patients": "patients",
    "acquired": "how acquired",
    "selection": "how chosen",
    "labels": "labels",
    "form": "form of the images",
    "ethnicity": "ethnicity",
    "consent": "consent and de-identification",
    "used_by": "packages that learned from it",
}
# Between edges of the exploration's histogram; who is under 18 is counted there by itself.
_AGE_BANDS = ((0, 40), (40, 60), (60, 80), (80, 120))
_ADULT = 18


@dataclass(frozen=True)
class Explored:
    """A cohort as it was explored, `record` empty where it was not, with its words and the ages of its packages."""

    name: str
    words: Mapping[str, Any]
    record: Mapping[str, Any]
    ages: tuple[tuple[str, float, float], ...]
    views: tuple[str, ...]

    @property
    def path(self) -> str:
        return f"{RUNS}/exploration-{self.name}.json"

    @property
    def command(self) -> str:
        return f"cxr-train eda {self.name} --data DIR --out OUT && cp OUT/eda.json {self.path}"

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.record.get("main_labels", ()))


def gather(root: Path) -> Material:
    """Return the figures and tables of 06_data/cohorts.md."""
    figures: list[Figure] = []
    tables: list[Table] = []
    for cohort in explored(root):
        figures += list(_figures(cohort))
        tables += [
            _words(cohort),
            _parts(cohort),
            _demographics(cohort),
            _labels(cohort),
            _beside(cohort),
            _completeness(cohort),
            _coverage(cohort),
            _consistency(cohort),
        ]
    names = tuple(cohort.name for cohort in explored(root))
    figures.append(Figure("cohorts", names, str(len(names)), WORDS, says="cohorts that packages learned from"))
    return Material(tuple(figures), tuple(tables))


def explored(root: Path) -> tuple[Explored, ...]:
    """Return every cohort of regulatory/cohorts.toml with its exploration."""
    found = []
    for name, words in tomllib.loads((root / WORDS).read_text("utf-8")).items():
        manifests = [read_json(root / PACKAGES / package / "manifest.json") for package in words["used_by"]]
        uses = [(str(item["name"]), item["intended_use"]) for item in manifests if item]
        ages = tuple((package, float(use["age_years"][0]), float(use["age_years"][1])) for package, use in uses)
        views = tuple(dict.fromkeys(view for _, use in uses for view in use["views"]))
        found.append(Explored(name, words, read_json(root / RUNS / f"exploration-{name}.json"), ages, views))
    return tuple(found)


def _figures(cohort: Explored) -> Iterator[Figure]:
    counts = mapping(cohort.record.get("counts"))

    def figure(key: str, value: Any, shown: str, says: str, pointer: str) -> Figure:
        return figure_of(cohort, key, value, shown, says, pointer)

    for key in ("images", "patients"):
        yield figure(key, counts.get(key), count(counts.get(key)), f"{key} of the cohort at hand", f"/counts/{key}")
    apart = mapping(mapping(counts.get("parts")).get("apart")).get("images")
    yield figure("apart", apart, count(apart), "images that are used for nothing", "/counts/parts/apart/images")
    for name, entry in mapping(cohort.record.get("prevalence")).items():
        share = mapping(entry).get("prevalence")
        says = f"share of images with {name.replace('_', ' ')}, of those with that label"
        yield figure(f"prevalence.{name}", value_of(share), estimate(share), says, f"/prevalence/{name}")


def figure_of(cohort: Explored, key: str, value: Any, shown: str, says: str, pointer: str) -> Figure:
    """Return a figure of a cohort; without a value it reads "not run"."""
    text = shown if value is not None else NOT_RUN
    return Figure(f"{cohort.name}.{key}", value, text, cohort.path, pointer, cohort.command, says)


def table_of(cohort: Explored, key: str, title: str, header: tuple[str, ...], rows: Any, pointer: str) -> Table:
    rows = tuple(rows) or ((NOT_RUN, *("" for _ in header[1:])),)
    title = f"{cohort.words['name']}: {title}"
    return Table(f"{cohort.name}.{key}", title, header, rows, cohort.path, pointer, cohort.command)


def _words(cohort: Explored) -> Table:
    rows = []
    for key, says in _WORDS.items():
        value = cohort.words[key]
        rows.append((says, ", ".join(value) if isinstance(value, list) else str(value)))
    title = f"{cohort.words['name']}: what it is"
    return Table(f"{cohort.name}.card", title, ("", ""), tuple(rows), WORDS, cohort.name)


def _parts(cohort: Explored) -> Table:
    """Size and balance of each part, for each label that a package is made for."""
    counts, rows = mapping(mapping(cohort.record.get("counts")).get("parts")), []
    for part, entry in counts.items():
        for label in cohort.labels:
            share = mapping(mapping(mapping(cohort.record.get("prevalence")).get(label)).get("parts")).get(part)
            known = mapping(share)
            rows.append(
                (
                    part,
                    count(entry["images"]),
                    count(entry["patients"]),
                    label,
                    f"{count(known.get('present'))} / {count(known.get('absent'))} / {count(known.get('unknown'))}",
                    estimate(known.get("prevalence")),
                )
            )
    header = ("part", "images", "patients", "label", "present / absent / unknown", "share present")
    return table_of(cohort, "parts", "size and balance of the parts", header, rows, "/counts/parts, /prevalence")


def _demographics(cohort: Explored) -> Table:
    record, rows = cohort.record, []
    whole = int(mapping(record.get("counts")).get("images", 0))
    for kind in ("sex", "view"):
        for value, entry in mapping(record.get(kind)).items():
            present = mapping(entry.get("present"))
            shares = "; ".join(
                f"{label} {estimate(mapping(item).get('prevalence'))}" for label, item in present.items()
            )
            rows.append((kind, value, count(entry["images"]), percent(entry["images"] / whole), shares))
    age = mapping(record.get("age"))
    if age.get("histogram"):
        rows.append(("age", f"under {_ADULT} years", count(age["under_18"]), percent(age["under_18"] / whole), ""))
        for low, high in _AGE_BANDS:
            images = _in_band(age, "images", low, high) - (age["under_18"] if low == 0 else 0)
            told = "; ".join(f"{label}: {_in_band(age, label, low, high)} images" for label in cohort.labels)
            told += f" (with those under {_ADULT})" if low == 0 else ""
            rows.append(("age", f"{_band(low, high)} years", count(images), percent(images / whole), told))
        quartiles = " / ".join(f"{value:g}" for value in age["quartiles"])
        rows.append(("age", "quartiles, years", quartiles, "", f"range {age['range'][0]:g} to {age['range'][1]:g}"))
    elif age:
        rows.append(
            ("age", "unknown", count(age["unknown"]), percent(age["unknown"] / whole), "not given for any image")
        )
    for kind, name in (("sources", "source"), ("subsets", "subset")):
        for value, entry in mapping(mapping(record.get("counts")).get(kind)).items():
            rows.append((name, value, count(entry["images"]), percent(entry["images"] / whole), ""))
    header = ("", "", "images", "share of images", "finding, as labelled")
    return table_of(
        cohort, "demographics", "who and what is in it, every part together", header, rows, "/age, /sex, /view"
    )


def _band(low: int, high: int) -> str:
    return f"{low} and older" if high == _AGE_BANDS[-1][1] else f"{low or _ADULT} to {high - 1}"


def _in_band(age: Mapping[str, Any], key: str, low: int, high: int) -> int:
    """Return the images of an age band that begins and ends at edges of the histogram."""
    edges = age["histogram"]["edges"]
    return sum(age["histogram"][key][edges.index(low) : edges.index(high)])


def _labels(cohort: Explored) -> Table:
    rows = [
        (
            name.replace("_", " "),
            f"{count(entry['present'])} / {count(entry['absent'])} / {count(entry['unknown'])}",
            estimate(entry.get("prevalence")),
        )
        for name, entry in mapping(cohort.record.get("prevalence")).items()
    ]
    header = ("label", "present / absent / unknown", "share present")
    return table_of(cohort, "labels", "every label, every part together", header, rows, "/prevalence")


def _beside(cohort: Explored) -> Table:
    """Which other findings stand beside pneumonia, and how often without it."""
    found = cohort.record.get("comorbidity")
    rows = [
        (name.replace("_", " "), count(entry["images"]), estimate(entry["share"]), estimate(entry["share_without"]))
        for name, entry in sorted(
            mapping(mapping(found).get("with")).items(), key=lambda item: item[1]["images"], reverse=True
        )
    ]
    if isinstance(found, Mapping):
        rows.append(("none of them", count(found["alone"]), percent(found["alone"] / found["present"]), ""))
    elif isinstance(found, str):
        rows = [(found, "", "", "")]
    header = ("finding beside it", "images", "share of images with pneumonia", "share of those without")
    return table_of(cohort, "beside", "findings that stand beside pneumonia", header, rows, "/comorbidity")


def _completeness(cohort: Explored) -> Table:
    """The share of images whose value is given at all."""
    record, rows = cohort.record, []
    whole = int(mapping(record.get("counts")).get("images", 0))
    if whole:
        unknown = {
            "age": mapping(record["age"]).get("unknown", whole),
            "sex": mapping(mapping(record["sex"]).get("unknown")).get("images", 0),
            "view": mapping(mapping(record["view"]).get("unknown")).get("images", 0),
            **{
                f"label {name}": mapping(mapping(record["prevalence"]).get(name)).get("unknown", whole)
                for name in cohort.labels
            },
            "picture": mapping(record["counts"]).get("without_picture", whole),
            "size as acquired": whole - mapping(record["original_size"]).get("known", 0),
            "pixel spacing": whole - mapping(record["pixel_spacing_mm"]).get("known", 0),
        }
        rows = [
            (name, f"{count(whole - missing)} of {count(whole)}", str(wilson(whole - missing, whole)))
            for name, missing in unknown.items()
        ]
    header = ("value", "given", "completeness")
    return table_of(cohort, "completeness", "completeness", header, rows, "/age, /sex, /view, /prevalence")


def _coverage(cohort: Explored) -> Table:
    """What of the intended use of its packages the cohort shows, and what it does not."""
    record, rows = cohort.record, []
    if record:
        age = mapping(record["age"])
        for package, low, high in cohort.ages:
            stated = f"{low:g} to {high:g} years"
            if not age.get("histogram"):
                rows.append((f"ages of {package}: {stated}", "no age is given", "coverage not known"))
                continue
            bands = [band for band in _AGE_BANDS if band[1] > low and band[0] < high]
            images = [_in_band(age, "images", *band) - (age["under_18"] if band[0] < _ADULT else 0) for band in bands]
            names = [_band(*band) for band in bands]
            empty = [name for name, number in zip(names, images, strict=True) if not number]
            shown = "; ".join(f"{name}: {number} images" for name, number in zip(names, images, strict=True))
            told = f"none of {', '.join(empty)}" if empty else "every band is shown"
            rows.append((f"ages of {package}: {stated}", shown, told))
        there = {view for view, entry in mapping(record["view"]).items() if entry["images"]}
        missing = [view for view in cohort.views if view not in there]
        rows.append(("views", ", ".join(sorted(there)), f"none of {', '.join(missing)}" if missing else "all shown"))
        sexes = [sex for sex in mapping(record["sex"]) if sex != "unknown"]
        rows.append(("sexes", ", ".join(sexes) or "not given", "all shown" if len(sexes) > 1 else "coverage not known"))
        hospitals = cohort.words["hospitals"]
        rows.append(("hospitals", count(hospitals), "no other hospital is shown" if hospitals == 1 else "several"))
        rows.append(("detectors, makers", "not given", "coverage not known"))
    header = ("of the intended use", "in the cohort", "coverage")
    return table_of(cohort, "coverage", "coverage of the intended use", header, rows, "/age, /view, /sex")


def _consistency(cohort: Explored) -> Table:
    """Values that contradict one another or cannot be."""
    record, rows = cohort.record, []
    if record:
        age, duplicates = mapping(record["age"]), mapping(record["duplicates"])
        declared, read = mapping(duplicates.get("declared")), mapping(duplicates.get("bytes"))
        sampled = mapping(record.get("sampled"))
        rows = [
            ("age above 120 or below 0 years", count(age["above_120"] + age["below_0"])),
            ("groups of the same pixels that the table declares", count(declared.get("groups"))),
            (f"groups of the same bytes among {count(read.get('pictures'))} pictures read", count(read.get("groups"))),
            ("… of them with different patients", count(read.get("over_patients"))),
            ("… of them in different parts", count(read.get("over_parts"))),
            ("… of them with different labels", count(read.get("other_labels"))),
            ("pictures that could not be read, of those sampled", count(len(rows_of(sampled.get("unreadable"))))),
            ("images of the table without a picture", count(mapping(record["counts"])["without_picture"])),
        ]
    header = ("what would be inconsistent", "found")
    return table_of(cohort, "consistency", "consistency", header, rows, "/age, /duplicates, /sampled")
