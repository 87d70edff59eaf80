"""What `query` may be told, and how an answer is shown: its hits, what it lacks, and the route it took."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import click

from node.commands.output import INDENT, excerpt, in_line, print_line

EXCERPT_LINES: Final = 4
EXCERPT_WIDTH: Final = 110
SHOWN_SHARDS: Final = 24
"""Shards of a route that are shown one by one; the rest are counted."""
EFFORTS: Final = ("low", "medium", "high")
MODES: Final = ("hybrid", "vector", "lexical")
_AGE = re.compile(r"(\d{1,6})([mhdw])")
_SECONDS: Final = {"m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}

F = TypeVar("F", bound=Callable[..., Any])


def question_options(command: F) -> F:
    """The options that narrow a question or say how much of its answer is wanted."""
    share = click.FloatRange(0, 1)
    for option in reversed(
        (
            click.option(
                "--tag",
                "tags",
                multiple=True,
                help="Only entries that bear this tag; several times: all of them.",
            ),
            click.option(
                "--author",
                "authors",
                multiple=True,
                metavar="AGENT",
                help="Only what this agent wrote; several times: one of them.",
            ),
            click.option(
                "--domain",
                "domains",
                multiple=True,
                help="Only what is of this field; several times: one of them.",
            ),
            click.option(
                "--min-confidence", type=share, metavar="C", help="Only what its author is as sure of."
            ),
            click.option(
                "--since",
                metavar="TIME",
                help="Only what was written then or later: 2026-11-27T08:30Z, or 90m, 12h, 7d, 4w ago.",
            ),
            click.option("--until", metavar="TIME", help="Only what was written before."),
            click.option(
                "--mode",
                type=click.Choice(MODES),
                help="Order by vector and words together, by the vector, or by the words alone.",
            ),
            click.option(
                "--effort",
                type=click.Choice(EFFORTS),
                help="How much of the best is wanted: .8, .95 (as without) or .99 of it.",
            ),
            click.option(
                "--recall", type=share, metavar="R", help="The same as a number, instead of --effort."
            ),
            click.option(
                "--deadline-ms",
                "--deadline",
                "deadline",
                type=click.IntRange(1, 60_000),
                metavar="MS",
                help="Answer after this long at most, with what is there.",
            ),
            click.option(
                "--fresh",
                is_flag=True,
                help="Have the entries' own holders confirm the hits, and take no kept answer.",
            ),
            click.option("--explain", is_flag=True, help="Show the route: shards, holders, times, and why."),
        )
    ):
        command = option(command)
    return command


def question_of(
    k: int,
    tags: tuple[str, ...],
    authors: tuple[str, ...],
    domains: tuple[str, ...],
    min_confidence: float | None,
    since: str | None,
    until: str | None,
    mode: str | None,
    effort: str | None,
    recall: float | None,
    deadline: int | None,
    fresh: bool,
    explain: bool,
) -> dict[str, Any]:
    """The body of the request, but for what is asked about."""
    if effort is not None and recall is not None:
        raise click.UsageError("give either --effort or --recall")
    return {
        "k": k,
        "tags": list(tags),
        "authors": list(authors),
        "domains": list(domains),
        "min_confidence": min_confidence,
        "since": _instant(since),
        "until": _instant(until),
        "mode": mode,
        "effort": effort,
        "recall": recall,
        "deadline_ms": deadline,
        "fresh": fresh,
        "explain": explain,
        "trace": explain,
    }


def print_answer(answer: Mapping[str, Any]) -> None:
    """Hits and route on standard output; what it cost and what it lacks on standard error."""
    for place, hit in enumerate(answer["hits"], 1):
        mark = "private" if hit["private"] else "verified" if hit["verified"] else "NOT VERIFIED"
        tagged = f" [{in_line(', '.join(hit['tags']))}]" if hit["tags"] else ""
        of = ""
        if hit["lexical_score"] is not None:
            of = f" (vector {hit['vector_score']:.3f}, words {hit['lexical_score']:.3f})"
        print_line(f"{place:>2}. {hit['score']:.3f}{of} by {hit['author']}, {mark}{tagged}")
        print_line(f"{INDENT}{hit['id']}")
        print_line(excerpt(hit["text"], EXCERPT_LINES, EXCERPT_WIDTH))
    cost = answer["cost"]
    if answer["route"] is not None:
        _print_route(answer["route"], cost)
    missed = f" ({cost['shards_missed']} of them missed)" if cost["shards_missed"] else ""
    said = [f"asked {cost['shards_contacted']} of {cost['shards_total']} shards{missed}"]
    said.append(count(cost["nodes_contacted"], "other node"))
    if cost["expected_recall"] is not None:
        said.append(f"{cost['expected_recall']:.2f} of the best expected")
    said.append(f"{cost['ms']:.0f} ms")
    if cost["heads_checked"]:
        said.append(f"{cost['heads_checked']} checked with their holders")
    if cost["texts_unlike"]:
        said.append(f"{count(cost['texts_unlike'], 'hit')} left out whose vector is not the text's")
    if cost["cached_s"] is not None:
        said.append(f"kept from {cost['cached_s']:.0f} s ago")
    if cost["deadline_hit"]:
        said.append("cut off by the deadline")
    print_line(f"{count(len(answer['hits']), 'hit')}: {', '.join(said)}", err=True)
    if cost["shortfall"] is not None:
        print_line(cost["shortfall"]["advice"], err=True)


def count(number: int, noun: str) -> str:
    """`1 hit`, `2 hits`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _print_route(route: Mapping[str, Any], cost: Mapping[str, Any]) -> None:
    asked = [one for one in route["shards"] if one["asked"]]
    left: dict[str, list[float]] = {}
    for one in route["shards"]:
        if not one["asked"]:
            left.setdefault(one["why"], []).append(one["expected"])
    print_line()
    print_line(f"route: {route['wanted']:.2f} of the best wanted, {count(len(asked), 'shard')} asked")
    for one in asked[:SHOWN_SHARDS]:
        by = "nobody answered" if one["answered_by"] is None else f"told by {_short(one['answered_by'])}"
        name = f"shard {one['shard'] or 'of everything'}"
        name = f"{name} of atlas {one['generation']}" if one["generation"] else name
        print_line(f"{INDENT}{name}: {one['expected']:.1%} of the hits expected, {by} ({one['why']})")
    if len(asked) > SHOWN_SHARDS:
        print_line(f"{INDENT}and {len(asked) - SHOWN_SHARDS} more")
    for why, parts in left.items():
        print_line(f"{INDENT}{count(len(parts), 'shard')} not asked, {sum(parts):.1%} expected there: {why}")
    for one in route["asked"]:
        if one["here"]:
            print_line(f"{INDENT}here: {one['complete']} of {count(one['shards'], 'shard')} told whole")
            continue
        took = "no answer yet" if one["ms"] is None else f"{one['ms']:.1f} ms"
        said = [f"{one['complete']} of {count(one['shards'], 'shard')} told whole", count(one["hits"], "hit")]
        said += [f"sent at {one['at_ms']:.1f} ms", took]
        said += [word for word in ("again", "slow") if one[word]]
        if one["problem"] is not None:
            said.append(f"failed: {one['problem']}")
        print_line(f"{INDENT}asked {_short(one['node'])}: {', '.join(said)}")
    if cost["steps_ms"]:
        print_line(f"{INDENT}ms: " + ", ".join(f"{name} {ms:.1f}" for name, ms in cost["steps_ms"].items()))


def _short(agent: str) -> str:
    """The last characters of a peer id, which tell it from others."""
    return f"…{agent[-10:]}"


def _instant(said: str | None) -> str | None:
    """A time as it is; an age such as `7d` as the time that long ago."""
    match = None if said is None else _AGE.fullmatch(said)
    if match is None:
        return said
    from datetime import UTC, datetime, timedelta

    ago = timedelta(seconds=int(match[1]) * _SECONDS[match[2]])
    try:
        return (datetime.now(UTC) - ago).isoformat(timespec="seconds")
    except OverflowError as error:
        raise click.UsageError(f"{said} ago is before there was time to count") from error
