"""`python -m regulatory build`: the regulatory file from templates and committed results; `--check` compares.

`--html` and `--pdf` write the whole file as one page and one PDF into build/regulatory, beside the pages.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from regulatory.build import bind, check, only, write
from regulatory.figures import BuildError
from regulatory.lock import ROOT


def main(arguments: Sequence[str] | None = None) -> int:
    """Build or check; return 0 when the file is whole."""
    parser = argparse.ArgumentParser(prog="python -m regulatory", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["build"])
    parser.add_argument("--check", action="store_true", help="write nothing; name each page that differs")
    parser.add_argument("--only", metavar="PAGE", help="this page alone, such as 19_eu_note.md")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    parser.add_argument("--html", action="store_true", help="also build/regulatory/cxr-node.html")
    parser.add_argument("--pdf", action="store_true", help="also build/regulatory/cxr-node.pdf")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.only:
            problems = only(chosen.root, chosen.only)
        elif chosen.check:
            problems = check(chosen.root)
        else:
            problems = write(chosen.root)
        if chosen.html or chosen.pdf:
            for path in bind(chosen.root, chosen.html, chosen.pdf):
                sys.stdout.write(f"{path}\n")
    except BuildError as error:
        problems = [str(error)]
    for problem in problems:
        sys.stdout.write(f"{problem}\n")
    sys.stdout.write(f"{len(problems)} problems\n" if problems else "the regulatory file is whole\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
