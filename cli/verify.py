"""prolip-search verify: whether the index is whole, and what to do where it is not."""

from __future__ import annotations

import json as json_module
from typing import TYPE_CHECKING, Annotated

import typer

import prolip_search
from prolip_search.cli import options
from prolip_search.cli.terminal import note, visible

if TYPE_CHECKING:
    from prolip_search.verification import VerifyReport

LISTED = 20  # findings of one part that are told one by one


def verify(
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="First remove leftovers, and write anew what is derived from the items.",
        ),
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON document, with every finding.")
    ] = False,
    index: options.IndexFolder = None,
) -> None:
    """Check the index, and every file that it remembers: what is wrong, and what to do about it.

    Reads all items, and of the photos only those whose time alone has changed. Exit status:
    0 nothing to do, 1 something was found, 2 an error.
    """
    from prolip_search.verification import verify_index

    report = verify_index(
        options.needed_folder(index),
        lambda store: prolip_search.SearchEngine(store, encoder=None, runtime="auto").encoder,
        repair=repair,
    )
    if json:
        print(json_module.dumps(report.to_dict(), ensure_ascii=True, indent=2))
    else:
        _tell(report)
    if not report.clean:
        raise typer.Exit(1)


def _tell(report: VerifyReport) -> None:
    for repaired in report.repaired:
        note(f"repaired {repaired}")
    told: dict[str, int] = {}
    for finding in report.findings:
        told[finding.part] = told.get(finding.part, 0) + 1
        if told[finding.part] <= LISTED:
            what = f"{finding.what}." if finding.part != "file" else f"{finding.what}:"
            print(visible(f"{finding.part} {finding.path}: {what} {finding.advice}"))
    for part, n_told in told.items():
        if n_told > LISTED:
            note(f"and {n_told - LISTED:,} more of {part}; --json lists all of them")
    if report.leftovers:
        note(f"left over, harmless, and removed by --repair: {', '.join(report.leftovers)}")
    for text in report.notes:
        note(text)
    n = len(report.findings)
    verdict = "nothing to do" if report.clean else f"{n:,} finding{'s' * (n != 1)}"
    print(
        f"{report.n_items:,} items and {report.n_files:,} files checked: {verdict} "
        f"({report.seconds:.1f} s)"
    )
