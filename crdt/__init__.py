"""Floor 1, pure: how records about one subject merge into what people see.

An entry is a fold over a grow-only set of records, so merging two replicas is set union and every law of
merging (commutative, associative, idempotent) is inherited from sets, also when authors lie. Public surface:
`entry.EntryState` and `entry.fold` (the set and its view), `version_vector` (what a replica has seen),
`operations` (payload bodies) and `drafts` (the next operation on a view).
"""
