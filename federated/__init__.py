"""Floor 4: models that peers train together, each on its own data, with nobody in the middle.

Pure parts: `update` (models as bytes), `aggregation` (fixed-point FedAvg, the same bits everywhere), `ledger`
(what the records of a task add up to), `proposal` (what follows from one round's records) and `round` (what a
member does next). `following` and the modes on it (`engagement`, `gossip_run`, `server_run`) are the thin
layer that waits, `models` fetches and looks at what they compute with, `learning` is what a node calls.
Training itself is never done here: the user's process asks its node what to train from, and hands in what
came of it.
"""
