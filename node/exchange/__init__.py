"""The exchange: systems of other makers publish and read knowledge through this node, by keys of their own.

It has a listener apart from the node's own interface (`exchange_listen`), so the owner's token is never asked
for here, and what a key of the exchange opens is only what `node.exchange.app` serves. What others say is
signed by this node, which answers for it, and names them as those on whose behalf it speaks (`chain.behalf`).
"""
