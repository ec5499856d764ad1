"""Features to scores: mutual scoring of tiles, reduction to patch maps, RsCIN, ranks and thresholds."""
