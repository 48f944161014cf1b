"""Use specification and hazard-related use scenarios, each with the requirement that answers it."""

import tomllib
from pathlib import Path

from regulatory.figures import Material, Table

FILE = "regulatory/usability.toml"
TESTED = "no user test done"


def gather(root: Path) -> Material:
    """Return the tables.

    Raises
    ------
    ValueError
        A scenario names a requirement that is not stated, or a user that is not specified.
    """
    stated = tomllib.loads((root / FILE).read_text("utf-8"))
    known = tomllib.loads((root / "regulatory/requirements.toml").read_text("utf-8"))["requirements"]
    users = {item["who"] for item in stated["user"]}
    for item in stated["scenario"]:
        if item["requirement"] not in known:
            raise ValueError(f"{FILE}: scenario {item['error']!r} names {item['requirement']}, which is not stated")
        if item["user"] not in users:
            raise ValueError(
                f"{FILE}: scenario {item['error']!r} is of the user {item['user']!r}, who is not specified"
            )
    return Material(
        tables=(
            Table(
                "usability.users",
                "Users",
                ("user", "knows", "does", "where"),
                tuple((item["who"], item["knows"], item["does"], item["where"]) for item in stated["user"]),
                FILE,
                "user",
            ),
            Table(
                "usability.scenarios",
                "Hazard-related use scenarios",
                ("user", "task", "use error", "harm", "measure in the design", "requirement", "tried with users"),
                tuple(
                    (
                        item["user"],
                        item["task"],
                        item["error"],
                        item["harm"],
                        item["measure"],
                        f"{item['requirement']}: {known[item['requirement']]}",
                        TESTED,
                    )
                    for item in stated["scenario"]
                ),
                f"{FILE}, regulatory/requirements.toml",
                "scenario",
            ),
        )
    )
