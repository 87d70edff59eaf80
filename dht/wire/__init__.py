"""The wire: frames, streams and connections, and the adapter that puts them on libp2p.

Everything that counts bytes, tasks and time of one connection stands here (`limits` in one place); nothing
here knows what a record is, or who is near to whom. The rest of the floor sees only the port `dht.network`.
"""
