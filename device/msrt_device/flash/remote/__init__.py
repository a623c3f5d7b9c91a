"""A machine that runs already, over SSH: the agent's package and an identity are put there, and it is started.

host          `ssh://[USER@]HOST[:PORT]` by the system's own ssh: its configuration, its keys, its known hosts
installing    what is done there, and what is read back
"""
