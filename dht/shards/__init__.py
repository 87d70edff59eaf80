"""The life of shards: what two of a shard's holders decide about it, and how everybody comes to know."""
