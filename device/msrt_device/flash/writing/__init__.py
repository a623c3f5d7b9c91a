"""An image onto a medium, so that what is there afterwards is the image, or does not boot.

machine     which disk a device node is, and what uses it: /sys and /proc, read through one seam
medium      what may be written: refusals, each named; the open medium (write, zero, sync, read back)
blockmap    which blocks of an image hold data: holes of a file, or a .bmap file beside it
grid        where an image is cut into chunks
compressed  zstd and xz: their frames, and reading them whole
sources     the unpacked bytes: anywhere in a raw file or in frames on the grid, else a stream
image       an image as chunks, read ahead by threads, hashed on the way
writer      the order of writes: body, end, and the beginning last
verify      what the medium holds, held against what was written
journal     what was written so far, for a second try
"""
