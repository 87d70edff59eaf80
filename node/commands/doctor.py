"""`doctor`: what is wrong with a home folder and its daemon, and what to do about it."""

from __future__ import annotations

import click

from node.commands.exit_codes import ExitCode
from node.commands.options import home_option, json_option
from node.commands.output import print_json, print_line


@click.command()
@click.option("--deep", is_flag=True, help="Verify the signature of every record held for others, too.")
@home_option
@json_option
@click.pass_context
def doctor(ctx: click.Context, deep: bool, home: str | None, as_json: bool) -> None:
    """Check key, chain, databases, disk, clock, ports and peers; nothing is changed."""
    from dataclasses import asdict

    from node.doctor import Severity, examine
    from node.home import open_home

    findings = examine(open_home(home), deep=deep)
    problems = sum(finding.severity is Severity.PROBLEM for finding in findings)
    if as_json:
        print_json({"ok": not problems, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            mark = {"ok": "ok", "warning": "warning", "problem": "PROBLEM"}[finding.severity]
            print_line(f"{mark:<8} {finding.check:<12} {finding.text}")
            if finding.advice:
                print_line(f"{'':<21} -> {finding.advice}")
    if problems:
        ctx.exit(ExitCode.DAMAGED)
