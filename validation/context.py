"""What a record is judged by, handed in by the caller.

Everything here is either the same on every node (manifest, epochs) or named by hash in the record itself, so
whoever supplied it cannot have altered it; the author's opening is checked like any other record. `verified`
and `admitted` are caches: they spare signature checks that would succeed, and never change a verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field

from chain.cid import Cid
from chain.epoch import Epoch
from chain.identity import AgentId
from chain.manifest import Manifest
from chain.record import Record


@dataclass(frozen=True, slots=True)
class Context:
    """The judge's bench.

    `network` is `manifest.network_id`. `epochs` are the accepted epochs after epoch 0, by the CID that
    headers name them by. `named` are records or bare headers by CID: those that the judged record names.
    `opening` are its author's records of seq 0 and 1, with payloads; not needed for these two themselves, nor
    for authors in `admitted`, whose opening has passed before. `verified` are named records whose signature
    has passed before. `embed` gives the int8 codes of a text in the network's space, or None when the text
    has no vector there; without it vectors are not held against their texts.
    """

    manifest: Manifest
    network: Cid
    epochs: Mapping[Cid, Epoch] = field(default_factory=dict)
    named: Mapping[Cid, Record] = field(default_factory=dict)
    opening: tuple[Record, Record] | None = None
    embed: Callable[[str], bytes | None] | None = None
    admitted: Container[AgentId] = frozenset()
    verified: Container[Cid] = frozenset()

    def rules_of(self, epoch: Cid) -> int | None:
        """The rule version of an epoch; None when the epoch is not known here."""
        if epoch == self.network:
            return self.manifest.rules
        known = self.epochs.get(epoch)
        return None if known is None else known.rules

    def number_of(self, epoch: Cid) -> int | None:
        """The number of an epoch; None when the epoch is not known here."""
        if epoch == self.network:
            return 0
        known = self.epochs.get(epoch)
        return None if known is None else known.number

    def atlas_of(self, epoch: Cid) -> Cid | None:
        """The atlas of a known epoch; None when there is none."""
        known = self.epochs.get(epoch)
        return self.manifest.atlas if known is None else known.atlas

    def record(self, cid: Cid | None) -> Record | None:
        """The named record with this CID, if it is here."""
        record = None if cid is None else self.named.get(cid)
        return record if record is not None and record.cid == cid else None
