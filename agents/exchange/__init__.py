"""Item vectors between processes: snapshots in the store, and deltas on `item-deltas`."""
