"""What becomes of kept backups: which of them rules keep, and why.

Place: values and pure functions, below all that reads a configuration or acts. Nothing here looks
at a clock, a file system or a configuration: all that is judged by comes as a value.
"""
