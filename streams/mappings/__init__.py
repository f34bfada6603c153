"""Files of events -> events: CSV and JSON lines by declarative mappings, one TOML file each."""
