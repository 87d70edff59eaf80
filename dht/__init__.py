"""The distributed floor: how nodes reach each other, and how records find their holders.

`dht.network` is the port every other module speaks to (`Network`: ask a peer, answer a peer, know who is
there); `dht.ports` holds the remaining impure ports (`Clock`, `Random`, `RunBlocking`), `dht.errors` the
floor's errors. Upon them, each importing only those before it: `dht.wire` (frames and connections, and
libp2p, imported by its adapter alone, so that importing the floor stays cheap), `dht.overlay` (Kademlia),
`dht.negentropy` (set reconciliation), `dht.records` (what a record is on its way, and how it gets in), and
side by side `dht.repair` (replication), `dht.evidence` (what peers prove to one another), `dht.blobs` and
`dht.summaries` (what lies in others' shards, in short).
"""
