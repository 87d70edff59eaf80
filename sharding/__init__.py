"""Where knowledge lies and whom to ask: Hilbert curves, the atlas, shard keys, the shard tree and routing by
meaning.

A pure floor: it reads no clock, file or socket, and everything two nodes must agree on is computed in
integers.

- `sharding.hilbert`: `encode`, `decode`, `encode_point`, `decode_point`
- `sharding.atlas`: `Atlas`, `nearest_cells`; `sharding.atlas_build`: `build_atlas`
- `sharding.key`: `shard_keys`
- `sharding.tree`: `Prefix`, `ShardTree`, `split`, `merge`
- `sharding.routing`: `route`, `contact_set`, `Scored`
- `sharding.terms`, `sharding.bm25`, `sharding.term_sketch`, `sharding.word_routing`: finding by words
- `sharding.errors`: `ShardingError` and what derives from it
"""
