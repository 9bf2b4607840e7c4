"""gRPC's own implementation as server and as client. Messages are bytes, so that no generated code is needed."""

import queue
import sys
import threading
import time
from concurrent import futures

import grpc

SERVICE = "tidegate.test.Echo"


class Echo(grpc.GenericRpcHandler):
    """A service with one method of each kind."""

    def service(self, call):
        kinds = {
            "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "Down": grpc.unary_stream_rpc_method_handler(self.down),
            "Up": grpc.stream_unary_rpc_method_handler(self.up),
            "Both": grpc.stream_stream_rpc_method_handler(self.both),
            "Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            "Sleep": grpc.unary_unary_rpc_method_handler(self.sleep),
            "Left": grpc.unary_unary_rpc_method_handler(self.left),
        }
        return kinds.get(call.method.rpartition("/")[2])

    def unary(self, message, context):
        context.set_trailing_metadata((("x-length", str(len(message))), ("x-raw-bin", b"\x00\xff")))
        return message

    def down(self, message, context):
        for number in range(int(message)):
            yield str(number).encode()

    def up(self, messages, context):
        return str(sum(len(message) for message in messages)).encode()

    def both(self, messages, context):
        for message in messages:
            yield message

    def fail(self, message, context):
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now: 100 % schön")

    def sleep(self, message, context):
        time.sleep(float(message))
        return b"awake"

    def left(self, message, context):
        return str(context.time_remaining()).encode()


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16), handlers=[Echo()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    # The test holds the other end.
    sys.stdin.read()
    server.stop(None)


def client(target, authority, certificate=None):
    options = [("grpc.default_authority", authority), ("grpc.enable_retries", 0)]
    if certificate:
        with open(certificate, "rb") as file:
            credentials = grpc.ssl_channel_credentials(file.read())
        options.append(("grpc.ssl_target_name_override", authority))
        channel = grpc.secure_channel(target, credentials, options)
    else:
        channel = grpc.insecure_channel(target, options)
    path = lambda method: f"/{SERVICE}/{method}"
    unary = channel.unary_unary(path("Unary"))

    # Unary, with metadata at both ends, empty and large messages.
    for message in [b"", b"hello", bytes(3_000_000)]:
        answer, call = unary.with_call(message, timeout=60)
        trailing = dict(call.trailing_metadata())
        assert answer == message and trailing["x-length"] == str(len(message)), trailing
        assert trailing["x-raw-bin"] == b"\x00\xff", trailing

    # Streams one way.
    numbers = list(channel.unary_stream(path("Down"))(b"1000", timeout=60))
    assert numbers == [str(number).encode() for number in range(1000)], len(numbers)
    total = channel.stream_unary(path("Up"))((bytes(10_000) for _ in range(200)), timeout=60)
    assert total == b"2000000", total

    # A stream both ways, in turns: nothing is held back until more comes, in either direction.
    mine = queue.Queue()
    answers = channel.stream_stream(path("Both"))(iter(mine.get, None), timeout=60)
    for number in range(100):
        message = f"message {number}".encode()
        mine.put(message)
        assert next(answers) == message
    mine.put(None)
    assert list(answers) == [] and answers.code() == grpc.StatusCode.OK

    # A status of the server passes with its text.
    expect(grpc.StatusCode.FAILED_PRECONDITION, channel.unary_unary(path("Fail")), b"", "not now: 100 % schön")
    expect(grpc.StatusCode.UNIMPLEMENTED, channel.unary_unary(path("None")), b"")

    # The deadline goes on to the server, and holds in the gateway although the server lets it pass.
    left = float(channel.unary_unary(path("Left"))(b"", timeout=20))
    # The field has few digits, and is rounded up; a slow machine takes some of it.
    assert 5 < left < 21, left
    began = time.monotonic()
    expect(grpc.StatusCode.DEADLINE_EXCEEDED, channel.unary_unary(path("Sleep")), b"30", timeout=0.5)
    # Long before the server would have answered.
    assert time.monotonic() - began < 20
    # The rule's deadline, which the client does not know: only the gateway can say so.
    expect(grpc.StatusCode.DEADLINE_EXCEEDED, channel.unary_unary("/tidegate.test.Short/Sleep"), b"30", "gateway timeout")

    # Own answers.
    expect(grpc.StatusCode.UNIMPLEMENTED, channel.unary_unary("/tidegate.test.Nowhere/Call"), b"", "not found")
    expect(grpc.StatusCode.UNAVAILABLE, channel.unary_unary("/tidegate.test.Gone/Call"), b"", "service unavailable")
    expect(grpc.StatusCode.PERMISSION_DENIED, channel.unary_unary("/tidegate.test.Closed/Call"), b"", "closed on Sundays")

    # A call that its client cancels ends at the server's side; others go on.
    call = channel.unary_unary(path("Sleep")).future(b"30", timeout=60)
    threading.Timer(0.1, call.cancel).start()
    try:
        call.result()
        raise AssertionError("it was not cancelled")
    except grpc.FutureCancelledError:
        pass
    assert unary(b"still here", timeout=60) == b"still here"
    channel.close()
    print("all as without a gateway", flush=True)


def expect(code, method, message, details=None, timeout=60):
    try:
        method(message, timeout=timeout)
    except grpc.RpcError as error:
        assert error.code() == code, (error.code(), error.details())
        assert details is None or error.details() == details, error.details()
    else:
        raise AssertionError(f"{code} was expected")


if sys.argv[1] == "server":
    serve()
else:
    client(*sys.argv[2:])
