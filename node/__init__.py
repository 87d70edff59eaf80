"""The node floor: storage, local index, embedders, HTTP API and command line of one daemon."""
