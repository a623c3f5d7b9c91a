"""What carries a board's frames: its USB console, a UART, or a TCP port that its gateway connects to."""

import select
import socket
import sys
import time

import machine
import micropython

WIFI_S = 30


def open_line(settings: dict) -> "Usb | Uart | Tcp":
    """As `link` says. Raises ValueError for one that is unknown."""
    link = settings.get("link") or "usb"
    kind, _, rest = link.partition(":")
    if kind == "usb":
        return Usb()
    if kind == "uart":
        number, _, baud = rest.partition("@")
        return Uart(int(number), int(baud or 115200))
    if kind == "tcp":
        _join_wifi(settings["wifi"])
        return Tcp(int(rest))
    raise ValueError("link is usb, uart:NUMBER@BAUD or tcp:PORT, not " + link)


class Usb:
    """The console. Ctrl-C is a byte like any other from here on: to stop the board, reset it and be quick."""

    def __init__(self) -> None:
        micropython.kbd_intr(-1)
        self._poll = select.poll()
        self._poll.register(sys.stdin, select.POLLIN)

    def read(self) -> bytes:
        data = bytearray()
        while len(data) < 256 and self._poll.poll(0):
            data.extend(sys.stdin.buffer.read(1))
        return bytes(data)

    def write(self, data: bytes) -> None:
        sys.stdout.buffer.write(data)


class Uart:
    """A serial port of the chip."""

    def __init__(self, number: int, baud: int) -> None:
        self._uart = machine.UART(number, baudrate=baud, rxbuf=2048)

    def read(self) -> bytes:
        return self._uart.read() or b"" if self._uart.any() else b""

    def write(self, data: bytes) -> None:
        self._uart.write(data)


class Tcp:
    """One gateway at a time; a new connection takes the place of the one before."""

    def __init__(self, port: int) -> None:
        self._server = socket.socket()
        self._server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._server.bind(("0.0.0.0", port))  # noqa: S104 - a board has one network
        self._server.listen(1)
        self._server.setblocking(False)  # noqa: FBT003 - its one argument
        self._peer = None

    def read(self) -> bytes:
        try:
            peer, _ = self._server.accept()
            self._hang_up()
            self._peer = peer
            peer.setblocking(False)  # noqa: FBT003 - its one argument
        except OSError:
            pass
        if self._peer is None:
            return b""
        try:
            data = self._peer.recv(1024)
        except OSError as error:
            if error.errno != 11:  # EAGAIN
                self._hang_up()
            return b""
        if not data:
            self._hang_up()
        return data

    def write(self, data: bytes) -> None:
        while data and self._peer is not None:
            try:
                data = data[self._peer.send(data) :]
            except OSError as error:
                if error.errno != 11:
                    self._hang_up()
                return  # what has no room is lost, as on a wire, and said again

    def _hang_up(self) -> None:
        if self._peer is not None:
            self._peer.close()
            self._peer = None


def _join_wifi(wifi: dict) -> None:
    import network

    station = network.WLAN(network.STA_IF)
    station.active(True)  # noqa: FBT003 - its one argument
    station.connect(wifi["ssid"], wifi.get("password", ""))
    end = time.ticks_add(time.ticks_ms(), WIFI_S * 1000)
    while not station.isconnected():
        if time.ticks_diff(end, time.ticks_ms()) < 0:
            machine.reset()
        time.sleep_ms(100)
