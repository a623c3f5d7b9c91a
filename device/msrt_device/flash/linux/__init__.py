"""Linux for a board: how a Debian root with the agent in it becomes an image with two slots.

`debian` fetches and caches the packages; `root` makes a read-only system of them (`rootfs/` is laid over it) and
`agent` puts msrt into it; `initrd` is the first program of a boot (`init.sh`); `layout` writes partitions and boot
entries into one file, without mounts and loop devices. `settings` runs on the board, at each boot. See README.md.
"""
