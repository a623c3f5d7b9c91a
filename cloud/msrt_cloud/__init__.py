"""The cloud master."""
