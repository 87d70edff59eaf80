"""Records between peers: where they belong, how they travel, and how they get in.

`placement` names the bases of a record, `bundle` is its form on the wire, `intake` the only way in, `methods`
the `record.*` methods, `record_store` the port to the disk beneath.
"""
