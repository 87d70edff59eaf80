"""The bridge to Flower: a user's own Flower app takes part in a learning task as it is.

The app runs in a process of its own (`app_process`), which alone imports flwr; the command that drives it
(`app_runner`, `participation`) speaks to that process over two pipes and to the local daemon over a port.
`project` reads what a Flower project says about itself, `template` is what its ServerApp would send with each
round and travels in the task record, `capture` gets it out of the ServerApp.
"""
