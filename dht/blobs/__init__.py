"""Blobs: large content by its hash, fetched in chunks from several holders at once."""
