// A MicroPython in WebAssembly as a board: `node host.mjs PACKAGE FIRMWARE run BLOB ROWS` prints what the engine makes of
// each row; `... serve PORT SERIAL` is an agent behind a TCP port (0: any free one), which prints the port it has;
// `... repl` is its REPL on standard input and output, as a board's on its serial line.
import { readFileSync, readSync, readdirSync, writeSync } from "node:fs";
import { createServer } from "node:net";
import { randomBytes } from "node:crypto";
import { pathToFileURL } from "node:url";

const [, , pack, firmware, verb, ...given] = process.argv;
const { loadMicroPython } = await import(pathToFileURL(`${pack}/micropython.mjs`).href);
const options =
  verb === "repl"
    ? { linebuffer: false, stdout: (data) => writeSync(1, data) }
    : { linebuffer: true, stdout: (line) => console.error(line) };
const python = await loadMicroPython({ heapsize: 8 << 20, ...options });
for (const name of readdirSync(firmware)) {
  if (name.startsWith("msrt_") && name !== "msrt_lines.py") {
    python.FS.writeFile(`/${name}`, readFileSync(`${firmware}/${name}`));
  }
}

const RUN = `
import sys
sys.path.insert(0, "/")
import struct
from msrt_engine import Model, int8s
blob = int8s(0)
blob.extend(open("/blob", "rb").read())
model = Model(blob, len(blob), 1 << 20)
arena, rows = int8s(model.arena), open("/rows", "rb").read()
with open("/found", "wb") as out:
    for at in range(0, len(rows), model.input_bytes):
        view = memoryview(arena)
        row = int8s(0)
        row.extend(rows[at : at + model.input_bytes])
        view[model.input_at : model.input_at + model.input_bytes] = row
        model.run(arena, lambda: None)
        out.write(bytes(view[model.output_at : model.output_at + model.output_bytes]))
`;

const SERVE = `
import sys
sys.path.insert(0, "/")
import binascii, time
import host
from msrt_agent import Agent

class Board:
    serial, name, firmware, sensor = host.serial, "WebAssembly", "msrt micropython", "ramp"
    boot, model_bytes, arena_bytes = host.boot, 1 << 20, 1 << 18

    def write(self, data):
        host.write(binascii.hexlify(data).decode())

    def millis(self):
        return time.ticks_ms()

    def micros(self):
        return time.ticks_us()

    def sense(self, reading, into):
        for at in range(len(into)):
            into[at] = ((reading * 37 + at * 5 + 128) & 255) - 128

    def alive(self):
        pass

agent = Agent(Board())

def heard(text):
    agent.heard(binascii.unhexlify(text))
`;

if (verb === "repl") {
  python.replInit();
  const byte = Buffer.alloc(1);
  while (readSync(0, byte) === 1) {
    if (byte[0] === 5) { // raw paste: this port cannot read a program within a call, and says so as older ones do
      readSync(0, Buffer.alloc(2), 0, 2);
      writeSync(1, "R\0");
    } else if (python.replProcessChar(byte[0])) {
      writeSync(1, "MPY: soft reboot\r\n"); // what a port's main does then
      python.replInit();
    }
  }
} else if (verb === "run") {
  python.FS.writeFile("/blob", readFileSync(given[0]));
  python.FS.writeFile("/rows", readFileSync(given[1]));
  const begun = process.hrtime.bigint();
  python.runPython(RUN);
  console.error(`seconds ${Number(process.hrtime.bigint() - begun) / 1e9}`);
  process.stdout.write(Buffer.from(python.FS.readFile("/found")).toString("hex"));
} else {
  let peer = null;
  python.registerJsModule("host", {
    serial: given[1],
    boot: randomBytes(4).readUInt32LE() >>> 2, // a small integer on both sides
    write: (text) => peer?.write(Buffer.from(text, "hex")),
  });
  python.runPython(SERVE);
  const heard = python.globals.get("heard");
  const agent = python.globals.get("agent");
  const server = createServer({ noDelay: true }, (socket) => {
    peer?.destroy();
    peer = socket;
    socket.on("data", (data) => heard(data.toString("hex")));
    socket.on("error", () => socket.destroy());
    socket.on("close", () => {
      if (peer === socket) peer = null;
    });
  });
  server.listen(Number(given[0]), "127.0.0.1", () => console.log(server.address().port));
  setInterval(() => agent.step(), 2);
}
