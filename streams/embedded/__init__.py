"""A real broker and a real store, started, watched and stopped with their parent."""
