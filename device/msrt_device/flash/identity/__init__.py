"""Who a board is: `identity.toml` on a small FAT partition with the label MSRTID, apart from the image.

settings   the file, checked
flags      the same from a command line
medium     onto a medium that is not mounted, and read back
place      whether an image has room for it, before it is written
folder     where it is mounted: what a boot reads
claim      wipes the one-time claim when it is spent
issued     keys and a certificate instead of a claim
"""
