"""The Python package `websockets` as server or client of the test: compression, sub-protocols, fragments, close codes.

`peer.py server` prints its port and echoes until killed; `peer.py frames LIMIT` does so in the order of the frames, for
messages of so many bytes. `peer.py client PORT` talks through the gateway and fails loudly when anything differs from a
direct connection.
"""

import asyncio
import os
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.frames import DATA_OPCODES, OP_CONT, OP_TEXT
from websockets.http11 import Request
from websockets.server import ServerProtocol


async def server():
    async def echo(socket):
        async for message in socket:
            if message == "close":
                await socket.close(4001, "as asked")
                return
            await socket.send(message)

    # The server's order decides: the client offers both the other way round.
    async with serve(echo, "127.0.0.1", 0, subprotocols=["two", "one"], compression="deflate", max_size=None) as running:
        print(running.sockets[0].getsockname()[1], flush=True)
        await running.serve_forever()


async def client(port):
    async with connect(
        f"ws://ws.test:{port}/socket",
        host="127.0.0.1",
        port=port,
        subprotocols=["one", "two"],
        compression="deflate",
        max_size=None,
    ) as socket:
        assert socket.subprotocol == "two", socket.subprotocol
        names = [extension.name for extension in socket.protocol.extensions]
        assert names == ["permessage-deflate"], names
        for size in (0, 1, 125, 126, 70_000, 1_000_000):
            for message in ("ä" * size, os.urandom(size)):
                await socket.send(message)
                assert await socket.recv() == message, size
        # One message in three frames.
        await socket.send(part for part in ("one ", "two ", "three"))
        assert await socket.recv() == "one two three"
        await (await socket.ping())
        await socket.send("close")
        await socket.wait_closed()
        assert (socket.close_code, socket.close_reason) == (4001, "as asked"), (socket.close_code, socket.close_reason)
    print("all the same", flush=True)


class Frames(ServerProtocol):
    """Echoes each message before it looks at the next frame.

    The package's own loop answers pings at once and messages in another task: what comes first is a matter of luck there.
    """

    def recv_frame(self, frame):
        super().recv_frame(frame)
        if frame.opcode not in DATA_OPCODES:
            return
        if frame.opcode is not OP_CONT:
            self.kind, self.message = frame.opcode, b""
        self.message += frame.data
        if frame.fin and self.kind is OP_TEXT:
            # The caller fails the connection with 1007 when this raises.
            self.message.decode()
            self.send_text(self.message)
        elif frame.fin:
            self.send_binary(self.message)


async def frames(limit):
    async def talk(reader, writer):
        protocol = Frames(max_size=limit)
        ended = False
        while not ended:
            data = await reader.read(1 << 16)
            ended = not data
            protocol.receive_eof() if ended else protocol.receive_data(data)
            for event in protocol.events_received():
                if isinstance(event, Request):
                    protocol.send_response(protocol.accept(event))
            for piece in protocol.data_to_send():
                writer.write(piece) if piece else writer.write_eof()
        writer.close()

    running = await asyncio.start_server(talk, "127.0.0.1", 0)
    print(running.sockets[0].getsockname()[1], flush=True)
    await running.serve_forever()


match sys.argv[1:]:
    case ["server"]:
        asyncio.run(server())
    case ["frames", limit]:
        asyncio.run(frames(int(limit)))
    case ["client", port]:
        asyncio.run(client(int(port)))
