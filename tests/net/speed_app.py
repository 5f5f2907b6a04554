# Handlers of the guest that tests/net/speed.py measures: a TCP sink on port 9000, a source on 9001.
import asyncio

SINK, SOURCE = 9000, 9001
PIECE = bytes(range(256)) * 128


async def sink(reader, writer):
    buf = bytearray(len(PIECE))
    total = 0
    while True:
        count = await reader.readinto(buf)
        if not count:
            break
        total += count
    writer.write(b"%d\n" % total)
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def source(reader, writer):
    left = int(await reader.readline())
    while left > 0:
        writer.write(PIECE if left >= len(PIECE) else PIECE[:left])
        await writer.drain()
        left -= len(PIECE)
    writer.close()
    await writer.wait_closed()


asyncio.create_task(asyncio.start_server(sink, "0.0.0.0", SINK))
asyncio.create_task(asyncio.start_server(source, "0.0.0.0", SOURCE))
