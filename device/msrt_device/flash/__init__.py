"""From a bare board to a running device: targets say how an image is made, writing puts it onto a medium, identity
says who the board is.

    targets/     the boards: a `Target` each, and the table that names them
    writing/     the medium: may it be written, the block map, the writer, the check of what was written
    volumes/     GPT, MBR and FAT of a medium that is not mounted
    identity/    `identity.toml` on the small partition MSRTID: the claim, name, region, labels, Wi-Fi
    build        `msrt device image`
    flashing     `msrt device flash`
    command      `msrt device targets|image|flash`
"""
