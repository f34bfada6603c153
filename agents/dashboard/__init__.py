"""Pages for people, and the plain snapshot of a worker's state that they show."""
