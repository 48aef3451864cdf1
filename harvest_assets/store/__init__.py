"""One harvest on disk: plan, registry, shards, resuming, compaction, verification."""
