"""The graph of entries that refer to one another: deciding what to read (pure), reading it, and DOT."""
