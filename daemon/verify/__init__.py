"""Is it right, and prove it: audit, parity, shadow comparison, reports. Writes no count."""
