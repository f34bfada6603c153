"""Where streams and profiles meet: the application, its services and its commands."""
