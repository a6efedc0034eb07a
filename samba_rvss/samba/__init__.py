"""All that we know of Samba: its configuration, its state, its registry and its daemons."""
