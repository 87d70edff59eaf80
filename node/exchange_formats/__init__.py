"""Formats in which knowledge leaves and enters: JSON lines and JSON-LD; archives are `chain.archive_parts`."""
