"""`foldstream doctor`: what would lose, evict, misplace or delay data, each with its remedy."""
