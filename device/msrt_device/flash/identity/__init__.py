"""Who a board is: `identity.toml` on a small FAT partition with the label MSRTID, apart from the image.

`settings` is the file, checked; `folder` is where it is mounted: what a boot reads; `claim` wipes the one-time claim
when it is spent.
"""
