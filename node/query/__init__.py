"""A question and its answer: choosing shards, asking holders, verifying, merging; and answering others."""
