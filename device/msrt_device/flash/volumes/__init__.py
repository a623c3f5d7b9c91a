"""Files on a medium that is mounted nowhere: partition tables, and FAT.

    partitions   GPT and MBR: where the partitions lie
    fat          a FAT file system: its layout, table and root directory; files there are read, written, removed
    entries      a directory's entries: long names and their short aliases

Written for what a flashed medium needs, and no more: files in the root directory. Sources: UEFI specification 2.10,
chapter 5 (GPT); Microsoft, FAT32 File System Specification 1.03 (2000). The one kept library (pyfatfs) stands on a
package that no longer imports where setuptools has no pkg_resources.
"""
