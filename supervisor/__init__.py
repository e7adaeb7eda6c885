"""Shipkeeper: services from Compose files, isolated, restarted and explained, on one Linux host."""

__version__ = "0.1.0"
