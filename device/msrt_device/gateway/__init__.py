"""A gateway: a worker of class `mcu` whose engine is a microcontroller on a serial line or behind a TCP port.

`line` is the bytes, `board` the questions and answers (profile `mcu`), `engine` the board as an engine of models,
`findings` the board's own events made durable, `gateway` the node: while its board is there it is a device like
others, and when the board goes it says goodbye. `command` starts it.
"""
