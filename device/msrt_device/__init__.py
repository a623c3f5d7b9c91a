"""The device worker."""
