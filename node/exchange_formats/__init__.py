"""Formats in which knowledge leaves and enters: JSON lines, JSON-LD; archives: `chain.archive_parts`."""
