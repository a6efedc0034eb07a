"""Rigs for our tests and other people's: file systems, Sambas, daemons and clients of their own.

Contract: a rig is a context manager; what it has made is gone when it is left.
"""
