"""Summaries: what a node knows of shards that others hold, so that it asks few of them.

Each shard's holders keep a *block* of each *kind*: rows that say in short what lies there (`block`), made of
their own index by a source that the node hands in, and served by `shard.summary` (`messages`, `service`).
Who asks questions pulls the blocks of many shards from few holders, afterwards only what has changed, and
looks at what it was given now and then (`shelf`, `puller`). Nothing is gossiped, and a node that never asks
never pulls.

To add a kind: a `Kind` (a name, how many bytes a row's key and body have), and a `Source` that gives the rows
of a shard as they are now, both in the list handed to `SummaryService`; and a `Puller` of that kind where the
blocks are used. Versions, deltas, pages, bounds and the wire form are the same for all. Where a row is more
than its record's (a count, say), the body says the present value: a row given again replaces the former one.
"""
