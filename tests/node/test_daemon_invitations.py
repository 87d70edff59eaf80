"""Real daemons in a network by invitation: who is invited takes part, nobody else gets in."""

from __future__ import annotations

from functools import partial

import pytest

from node.commands.exit_codes import ExitCode
from tests.node.real_daemons import Daemons, eventually

pytestmark = pytest.mark.slow


def test_a_founder_invites_an_inviter_who_invites_a_guest(daemons: Daemons) -> None:
    homes = {name: daemons.folder / name for name in ("founder", "inviter", "guest", "stranger")}
    new = daemons.command(
        homes["founder"], "network", "new", "a closed garden", "--by-invitation", "--vectors", "4", "--json"
    )
    assert new.code == 0, new
    assert new.value["may_invite"]
    founder = daemons.run(homes["founder"])

    # Without an invite a key is made and told, so that somebody can name it.
    uninvited = daemons.command(homes["inviter"], "network", "join", founder.address)
    assert uninvited.code == ExitCode.REFUSED
    assert "is by invitation: ask" in uninvited.complaint
    (agent,) = [word for word in uninvited.complaint.split() if word.startswith("12D3Koo")]
    named = daemons.command(homes["founder"], "network", "invite", agent, "--inviter")
    assert named.code == 0, named
    stolen = daemons.command(homes["stranger"], "network", "join", named.out.strip())
    assert stolen.code == ExitCode.REFUSED
    assert "the invitation is for" in stolen.complaint
    joined = daemons.command(homes["inviter"], "network", "join", named.out.strip(), "--json")
    assert joined.code == 0, joined
    assert (joined.value["agent_id"], joined.value["may_invite"]) == (agent, True)
    assert joined.value["network"] == new.value["network"]

    # The inviter makes a link, good for one guest, who needed no key for it.
    inviter = daemons.run(homes["inviter"])
    link = daemons.command(homes["inviter"], "network", "invite", "--json").value["invite"]
    welcome = daemons.command(homes["guest"], "init", "--join", link, "--json")
    assert welcome.code == 0, welcome
    assert not welcome.value["may_invite"]
    second = daemons.command(homes["stranger"], "network", "join", link)
    assert second.code == ExitCode.REFUSED
    assert "used by somebody else" in second.complaint
    guest = daemons.run(homes["guest"])
    guest.add("roses", vector=[1.0, 0.0, 0.0, 0.0])
    question = {"vector": [1.0, 0.0, 0.0, 0.0], "k": 1}
    for daemon in (founder, inviter):
        asked = partial(daemon.ask, "POST", "/v1/query", question)
        eventually(lambda asked=asked: asked().value["hits"], "the guest's entry")  # type: ignore[misc]

    # A guest may not invite, unless the founder makes it an inviter later.
    refused = daemons.command(homes["guest"], "network", "invite")
    assert refused.code == ExitCode.REFUSED
    assert "may not invite" in refused.complaint
    refused = daemons.command(homes["inviter"], "network", "invite", agent, "--inviter")
    assert refused.code == ExitCode.REFUSED
    assert "only the founder" in refused.complaint
    promoted = daemons.command(homes["founder"], "network", "invite", welcome.value["agent_id"], "--inviter")
    done = daemons.command(homes["guest"], "network", "join", promoted.out.strip(), "--json")
    assert (done.code, done.value["created"], done.value["may_invite"]) == (0, False, True)
    assert daemons.command(homes["guest"], "network", "invite").code == 0
    assert guest.terminate() == 0
    guest = daemons.run(homes["guest"])  # needs no invite any more
    eventually(lambda: guest.get("/v1/status")["peers"] == 2, "the guest to be back")


def test_an_open_networks_invite_is_a_line_to_join_by(daemons: Daemons) -> None:
    founder = daemons.run(daemons.home("founder", "--vectors", "4"))
    line = daemons.command(founder.home, "network", "invite").out.strip()
    cut = daemons.command(daemons.folder / "guest", "network", "join", line[:-3])
    assert cut.code == ExitCode.REFUSED
    assert "copy the whole line again" in cut.complaint
    joined = daemons.command(daemons.folder / "guest", "network", "join", line, "--json")
    assert joined.code == 0, joined
    assert not joined.value["may_invite"]
    named = daemons.command(founder.home, "network", "invite", joined.value["agent_id"])
    assert named.code == ExitCode.REFUSED
    assert "is open" in named.complaint
