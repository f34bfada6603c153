"""What a worker serves over HTTP: health, metrics and, with the `dashboard` role, the pages."""
