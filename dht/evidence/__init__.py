"""Evidence: what peers prove to one another about chains, copies and offences.

Heads and whole chains of authors, challenges to holders, attestations, and the notices that every node holds.
Stands beside `dht.repair` and `dht.blobs`: none of the three needs another.
"""
