"""The Python package `websockets` as server or client of the test: compression, sub-protocols, fragments, close codes.

`peer.py server` prints its port and echoes until killed. `peer.py client PORT` talks through the gateway and fails
loudly when anything differs from a direct connection.
"""

import asyncio
import os
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve


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


asyncio.run(server() if sys.argv[1] == "server" else client(int(sys.argv[2])))
