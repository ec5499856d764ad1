"""Images to features: run context, ids, sharding, extraction, repair."""
