"""`network new`, `network invite`, `network join`: founding a network, and who is let into it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from node.commands.lifecycle import DEFAULT_JOIN_BITS, MAX_JOIN_BITS, NO_ATLAS, show_home
from node.commands.options import complete_file, home_option, json_option, passphrase_file_option
from node.commands.output import print_json, print_line

if TYPE_CHECKING:
    from chain.manifest import Space
    from node.atlas_making import MadeAtlas
    from node.home import Home

DAY_S = 24 * 3600


@click.group()
def network() -> None:
    """Found a network, invite to it, join one."""


@network.command("new")
@click.argument("name")
@click.option(
    "--by-invitation",
    is_flag=True,
    help="Only who is invited gets in, by the founder or whom it lets invite.",
)
@click.option(
    "--join-bits",
    type=click.IntRange(0, MAX_JOIN_BITS),
    help=f"Work that joining an open network costs: 2^N hashes  [default: {DEFAULT_JOIN_BITS}]",
)
@click.option(
    "--steward",
    "stewards",
    multiple=True,
    metavar="AGENT",
    help="Signs epochs too; may be given several times.",
)
@click.option(
    "--threshold",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Stewards that an epoch needs.",
)
@click.option(
    "--replication", type=click.IntRange(1, 15), metavar="R", help="Nodes that hold each record  [default: 3]"
)
@click.option("--max-payload", type=click.IntRange(1), metavar="BYTES", help="Largest payload of a record.")
@click.option("--max-text", type=click.IntRange(1), metavar="BYTES", help="Longest text of an entry.")
@click.option("--max-tags", type=click.IntRange(0), metavar="N", help="Tags of an entry.")
@click.option("--agent-name", metavar="NAME", help="What to call yourself in the network.")
@click.option(
    "--vectors", type=click.IntRange(1, 4096), metavar="DIM", help="Entries bring their own vectors."
)
@click.option(
    "--embedding",
    metavar="EMBEDDING",
    help="Vectors come from sentence-transformers:NAME, openai:NAME, or, under any other name, with each "
    "entry and query.",
)
@click.option(
    "--dims", type=click.IntRange(1, 4096), metavar="D", help="Dimensions of --embedding's vectors."
)
@click.option(
    "--sample",
    metavar="FILE",
    shell_complete=complete_file,
    help="Map the space by these vectors of --embedding: one a row, written by numpy.save.",
)
@click.option("--embedder-url", metavar="URL", help="Endpoint that embeds texts for openai:NAME.")
@click.option("--embedder-model", metavar="MODEL", help="What it calls the model, or the model's folder.")
@click.option(
    "--passphrase", "protect", is_flag=True, help="Seal the keys with a passphrase, asked for here."
)
@passphrase_file_option
@home_option
@json_option
def new(
    name: str,
    by_invitation: bool,
    join_bits: int | None,
    stewards: tuple[str, ...],
    threshold: int,
    replication: int | None,
    max_payload: int | None,
    max_text: int | None,
    max_tags: int | None,
    agent_name: str | None,
    vectors: int | None,
    embedding: str | None,
    dims: int | None,
    sample: str | None,
    embedder_url: str | None,
    embedder_model: str | None,
    protect: bool,
    passphrase_file: str | None,
    home: str | None,
    as_json: bool,
) -> None:
    """Found the network NAME in a new home folder; its id is printed."""
    if by_invitation and join_bits is not None:
        raise click.UsageError("a network by invitation asks for no work: leave --join-bits out")
    if (embedding is None) != (dims is None) or (embedding is None and sample is not None):
        raise click.UsageError(
            "--embedding EMBEDDING, --dims D and, if you have one, --sample FILE go together"
        )
    if embedding is not None and vectors is not None:
        raise click.UsageError("--vectors is --embedding without a name: leave it out")
    from chain.identity import agent_from_text
    from chain.manifest import Limits
    from node.commands.passphrase import protection_for
    from node.config import load_settings
    from node.daemon import init_home
    from node.embedding.static import SPACE as BUILT_IN
    from node.founding import REPLICATION, Terms, named_space
    from node.home import open_home

    folder, usual = open_home(home), Limits()
    terms = Terms(
        by_invitation=by_invitation,
        stewards=tuple(agent_from_text(text) for text in stewards),
        threshold=threshold,
        replication=replication or REPLICATION,
        limits=Limits(
            usual.payload if max_payload is None else max_payload,
            usual.text if max_text is None else max_text,
            usual.tags if max_tags is None else max_tags,
        ),
    )
    settings = load_settings(folder, {"embedder_url": embedder_url, "embedder_model": embedder_model})
    space = None if embedding is None or dims is None else named_space(embedding, dims)
    protection = protection_for(folder, protect, passphrase_file)
    made = None if space is None or sample is None else _atlas(folder, space, Path(sample))
    result = init_home(
        folder,
        name=name,
        join=None,
        join_bits=DEFAULT_JOIN_BITS if join_bits is None else join_bits,
        profile_name=agent_name,
        vectors_dim=vectors,
        protection=protection,
        space=space,
        embedding=settings.embedder(),
        terms=terms,
        atlas=None if made is None else made.data,
    )
    show_home(folder, result, as_json, protect)
    if as_json or not result.created:
        return
    if made is not None:
        print_line(f"atlas    {made.cid}: {made.cells} cells of {made.vectors} vectors")
    elif space is not None and space.model != BUILT_IN:
        print_line(NO_ATLAS, err=True)


def say_how(made: MadeAtlas) -> None:
    """Say on standard error what an atlas lacks that was made without scikit-learn."""
    if not made.learned:
        print_line(
            "scikit-learn is not installed: cells are laid out by principal components, so answers spread "
            "over some more shards. Install roseforest[atlas] for a better atlas.",
            err=True,
        )


def _atlas(folder: Home, space: Space, sample: Path) -> MadeAtlas | None:
    """The atlas of a sample; None where the home is there and nothing is to be founded."""
    from node.atlas_making import sample_atlas
    from node.commands.progress import progress_of_steps

    if folder.is_initialised() or (folder.chain_db.exists() and folder.founding.exists()):
        return None
    with progress_of_steps() as progress:
        made = sample_atlas(sample, space, progress)
    say_how(made)
    return made


@network.command("invite")
@click.argument("agent", required=False)
@click.option("--inviter", is_flag=True, help="AGENT may invite others; only the founder can say so.")
@click.option(
    "--until",
    type=click.IntRange(0),
    metavar="EPOCH",
    help="Last epoch in which AGENT's own guests may begin.",
)
@click.option(
    "--days", type=click.IntRange(1, 365), metavar="N", help="Days until a link lapses  [default: 7]"
)
@home_option
@json_option
def invite(
    agent: str | None, inviter: bool, until: int | None, days: int | None, home: str | None, as_json: bool
) -> None:
    """Print an invite: for AGENT, or a link that the first guest who shows it uses up.

    A link asks this node, so its daemon has to run when the guest joins. In an open network the line only
    saves typing. AGENT may be a member already, when --inviter makes an inviter of it.
    """
    from node.api_client import ApiClient
    from node.home import open_home

    asked = {
        "agent": agent,
        "inviter": inviter,
        "until": until,
        "lasts_s": None if days is None else days * DAY_S,
    }
    answer = ApiClient(open_home(home)).post("/v1/network/invites", asked)
    if as_json:
        print_json(answer)
    else:
        print_line(answer["invite"])


@network.command("join")
@click.argument("target", metavar="INVITE|MULTIADDR")
@click.option("--agent-name", metavar="NAME", help="What to call yourself in the network.")
@click.option(
    "--passphrase", "protect", is_flag=True, help="Seal the keys with a passphrase, asked for here."
)
@passphrase_file_option
@home_option
@json_option
def join(
    target: str,
    agent_name: str | None,
    protect: bool,
    passphrase_file: str | None,
    home: str | None,
    as_json: bool,
) -> None:
    """Join a network in a new home folder, by an invite or through a member's address.

    With an invite that makes this home's agent an inviter, a home that is a member already takes that.
    """
    from node.commands.passphrase import protection_for
    from node.config import load_settings
    from node.daemon import init_home
    from node.home import open_home

    folder = open_home(home)
    result = init_home(
        folder,
        name=None,
        join=target,
        join_bits=DEFAULT_JOIN_BITS,
        profile_name=agent_name,
        vectors_dim=None,
        protection=protection_for(folder, protect, passphrase_file),
        embedding=load_settings(folder, {}).embedder(),
    )
    show_home(folder, result, as_json, protect)
