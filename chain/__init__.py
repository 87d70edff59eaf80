"""Floor 0, pure: identity, canonical encoding, CIDs, records, manifest, epochs and chain rules.

Everything the network believes is one of the byte strings defined here. The floor imports nothing of ours,
reads no clock and draws no randomness. Public surface: `canonical.encode/decode`, `cid`, `identity`,
`record`, `source_chain`, `manifest`, `epoch`, `statement`, `membrane`, `invitation`,
`content`, `vector`, `kinds`, and the error tree in `errors`.
"""
