"""Pure compute: torch and numpy in, torch and numpy out. Nothing here knows of Ray, files or settings."""
