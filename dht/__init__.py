"""The distributed floor: how nodes reach each other, and how records find their holders.

`dht.network` is the port every other module speaks to (`Network`: ask a peer, answer a peer, know who is
there); `dht.libp2p_network` is its adapter for real sockets, and the simulator brings another one.
`dht.ports` holds the remaining impure ports (`Clock`, `Random`, `RunBlocking`), `dht.errors` the floor's
errors, `dht.frames` the wire format. Nothing here imports libp2p except the adapter, so importing the floor
stays cheap.
"""
