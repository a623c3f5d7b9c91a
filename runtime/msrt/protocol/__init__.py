"""What crosses a wire. Pure: no socket, clock, thread or log.

`messages` says what can be said, `wire` turns it into frames and back, `session` is the life of one hop as one
table, `stream` carries what is larger than a message, `address` validates names. The written specification is in
this folder's README.md.
"""
