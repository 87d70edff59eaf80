"""The counters of a node, as `status` and `/metrics` show them."""

from __future__ import annotations

from dataclasses import asdict

from node.parts import Parts


def counters_of(parts: Parts) -> dict[str, int]:
    counters = {
        "heartbeats_total": parts.heartbeats.told,
        "queries_total": parts.asker.queries,
        "searches_served_total": parts.searches.served,
        "searches_waited_us_total": round(parts.searches.turn_s * 1_000_000),
        "searches_answered_us_total": round(parts.searches.answering_s * 1_000_000),
        "hits_refused_total": parts.asker.hits_refused,
        "search_suspects_asked_total": parts.asker.suspects_asked,
        "texts_checked_total": parts.texts.checked,
        "hits_unlike_text_total": parts.texts.left_out,
        "query_cache_hits_total": parts.results.hits,
        "query_cache_misses_total": parts.results.misses,
        "query_cache_answers": len(parts.results),
        "query_cache_bytes": parts.results.bytes,
        "records_caught_up_total": parts.catch_up.fetched,
        "records_repaired_total": parts.repairer.sent,
        "bases_dropped_total": parts.repairer.dropped,
        "own_records_refused_total": parts.publisher.refused,
        "acknowledgements_unsigned_total": parts.publisher.unsigned,
        "chain_links_verified_total": parts.activity.verified,
        "chain_headers_filled_total": parts.activity.filled,
        "links_confirmed_total": parts.links.book.confirmed,
        "links_unconfirmed": parts.links.book.unconfirmed,
        "links_doubted": parts.links.book.doubted,
        "records_waited_total": parts.retrial.room.counts.waited,
        "records_waited_judged_total": parts.retrial.room.counts.judged,
        "records_refused_total": parts.intake.refused.total(),
        "postings": len(parts.holder),
        "background_failures_total": parts.supervisor.failed,
        "erasing": parts.erasing.pending,
        "scrubs_total": parts.erasing.scrubs,
        "operations_offered_total": parts.offers.offered,
        "shards": len(parts.layouts.current.tree.leaves),
        "shard_decisions": len(parts.layouts.growth.decisions),
        "shard_decisions_waiting": parts.decisions.waiting,
        "shard_decisions_learned_total": parts.decisions.learned,
        "shard_decisions_proposed_total": parts.proposer.proposed,
        "transfers_held_back_total": parts.transfers.held_back,
        "circuits_opened_total": parts.transfers.opened,
        "moved_entries_total": parts.migration.brought,
        "guest_shards": len(parts.guests),
        "circuits_open": parts.transfers.open,
        "former_shards": parts.migration.left,
        "former_shards_asked": len(parts.layouts.former_shards()),
        "records_refused_full_total": parts.room.refused_full,
        "records_refused_blocked_total": parts.blocks.refused,
        "records_refused_quota_total": parts.room.refused_quota,
        "own_records_fetched_back_total": parts.guard.refetched,
    }
    counters.update(
        (f"kademlia_{name}_total", value) for name, value in asdict(parts.kademlia.counters).items()
    )
    counters.update(parts.governance.counters())
    counters.update(parts.routing.counters())
    counters["term_sketches_audited_total"] = parts.audits.audited
    counters["term_lies_total"] = parts.audits.lies
    counters["summaries_served_total"] = parts.summaries.served
    counters["summary_bytes_served_total"] = parts.summaries.served_bytes
    counters.update(
        (f"challenges_{name}_total", value) for name, value in asdict(parts.challenger.counters).items()
    )
    counters.update(parts.learning.counters())
    counters.update((f"blobs_{name}_total", value) for name, value in asdict(parts.blobs.counters).items())
    counters.update((f"network_{name}_total", value) for name, value in parts.network.counters().items())
    return counters
