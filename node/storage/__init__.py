"""The node's three databases: its own chain, the records it holds for others, and derived state.

`own_chain.OwnChain` (chain.db) and `held_records.HeldRecords` (held.db) are durable: what they acknowledge is
on disk. `derived_state.DerivedState` (derived.db) can be rebuilt from them, and is the only file that is ever
recreated. Each store is a `database.Database` with one `group_writer.GroupWriter`; reads are plain calls on
connections of their own. Errors are the tree in `errors`.
"""
