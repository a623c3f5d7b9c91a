"""Over the air: how a device comes to another version of its agent or system, and back by itself.

slots      what holds two versions of one thing, one of which starts next; memory: for simulation
agent      slots as directories under a root, with a link to the one in force
updating   the update of one device, as a table; shell performs it
launcher   starts the agent of the slot that is due. Needs nothing but Python's own library: it is copied apart
"""
