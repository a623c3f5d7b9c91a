"""A board on a serial line of this machine: MicroPython's files, or the whole flash of an ESP32.

image     what may be put onto a board that way, and an identity in it. Pure
files     files of the agent by MicroPython's raw REPL (mpremote)
chip      a whole flash by the boot loader in an ESP32's ROM (esptool)
"""
