"""The node's HTTP interface: JSON over loopback behind a bearer token, described by OpenAPI at `/docs`.

`service.NodeService` is what a node must offer, `app.create_app` builds the ASGI application over it, and
`server.serve_api` serves that on Hypercorn's trio worker inside the daemon's nursery. `guard` stands before
everything and decides what may enter; `problems` turns errors into statuses; `shapes` is the JSON itself.
Nothing is imported here, so that the command line can stay light.
"""
