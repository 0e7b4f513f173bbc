"""Pure values: entities, events, actions, counters, buckets. No I/O, no clock, no configuration file."""
