"""The contact set: which shards to ask so that the part of the best answers that is wanted may be expected.

Of some shards an asker knows blocks of sketches, and so how many of the answers each is expected to hold
(`sharding.expectation`); of the others only how near their cells lie to the question (`sharding.routing`).
The latter are worth their share of the mass, the former what is left of it, divided as their sketches say. So
with all blocks sketches alone decide, without any the centroids do, and in between each shard is judged by
what is known of it. Shards are then asked in falling order until they hold the part that is wanted, and
always the one that the centroids put first: there lies what says nearly the same as the question, however new
it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from sharding.errors import RoutingError
from sharding.routing import Scored
from sharding.tree import Prefix

ALWAYS = 1
"""Shards that the centroids put first, asked whatever the blocks say. Each costs half a shard a question, and
finds another hundredth or two of what is in no block yet. Measured, see docs/sharding.md."""

LEAST = 1e-9
"""Fewer expected hits in all are none: their parts would be no numbers any more."""


def weigh(scored: Sequence[Scored], known: Mapping[Prefix, float]) -> dict[Prefix, float]:
    """The part of the best answers that each shard is expected to hold, most first; together 1, or nothing.

    `scored` are all shards (`sharding.routing.route`), `known` the expected hits of those with blocks.
    Of equals who is first there. O(shards * log(shards)).
    """
    mass = sum(one.mass_ppm for one in scored) or 1
    blind = sum(one.mass_ppm for one in scored if one.prefix not in known) / mass
    if all(one.prefix in known for one in scored):
        blind = 0.0
    total = sum(known.values())
    seen = (1 - blind) / total if total > LEAST else 0.0
    parts = {
        one.prefix: known[one.prefix] * seen if one.prefix in known else one.mass_ppm / mass for one in scored
    }
    return dict(sorted(parts.items(), key=lambda pair: -pair[1]))


def contacts(
    parts: Mapping[Prefix, float], scored: Sequence[Scored], recall: float, here: Collection[Prefix] = ()
) -> set[Prefix]:
    """The shards to ask for this recall, 0 to 1: one of 1 takes them all. `parts`: from `weigh`.

    What lies `here` is looked through in any case, and the first is asked in any case, so their parts count
    from the beginning. The last shard mostly goes beyond: on average a little more is reached. Raises
    `RoutingError`.
    """
    if not 0 <= recall <= 1:
        raise RoutingError(f"a recall of {recall}: choose 0 to 1")
    if recall == 1:
        return set(parts)
    enough = recall * sum(parts.values())
    chosen = {one.prefix for one in scored[:ALWAYS]}
    counted = chosen.union(here)
    held = sum(parts.get(shard, 0.0) for shard in counted)
    for shard, part in parts.items():
        if held >= enough:
            break
        chosen.add(shard)
        held += 0.0 if shard in counted else part
    return chosen
