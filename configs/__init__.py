"""One file per released model; `get_config()` returns its WanConfig."""
