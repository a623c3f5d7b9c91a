"""Transports: one a file, behind one Protocol (`link.Link`). A foreign library stops at its file."""
