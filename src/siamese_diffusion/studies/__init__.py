"""The `study` command: the paper's table on the user's data, arms x networks x seeds, cached stage by stage."""
