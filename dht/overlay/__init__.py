"""The overlay: who is there, who is near to a key, and whom to believe alive (Kademlia).

`kademlia` drives; `lookup`, `routing_table`, `membership`, `liveness` and `reputation` decide. Above the
wire, beneath everything that stores.
"""
