"""Range-based set reconciliation: the messages of Negentropy V1, and the two sides that speak them.

Pure: sets of ids in, messages out. Which sets two nodes compare is decided in `dht.repair`.
"""
