"""The edge master."""
