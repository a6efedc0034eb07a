"""The demonstration: one backup of a virtual disk that is being written to, on rigs of its own.

Place: above everything but the commands. `show` runs it and prints what it found, in a `session` of
its own; `stage` sets up what the `play` needs; the `reporter` notes steps and expectations.
"""
