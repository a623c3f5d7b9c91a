"""Raspberry Pi OS as the user gives it, made ours: what a board boots, its settings for the first boot, two slots.

given      the image: its partitions, its release, what its first boot runs
seeds      a board's settings for cloud-init or firstrun.sh, and its kernel command line. Pure
boot       the same onto a boot partition that is not mounted, and read back
root       what the root gets: mounts, the agent's user, units; written into ext4 without a mount
layout     the image with two slots, and the system for over the air
"""
