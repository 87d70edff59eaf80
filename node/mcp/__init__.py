"""The node as tools for AI agents: a server of the Model Context Protocol that is a client of the daemon.

`tools` names what an agent may do and what it has to say for it, `calls` asks the daemon, `envelope` wraps
what other agents wrote so that it stays content, `desk` decides what is offered and judges a call, and
`server`, `stdio` and `http` carry it over the `mcp` SDK (the extra `mcp`), which nothing else imports.
"""

from __future__ import annotations
