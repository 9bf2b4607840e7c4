"""An authorization service with Envoy's own messages: it does what the header x-case of a request says."""

import json
import sys
import time
from concurrent import futures

import grpc
from envoy.service.auth.v3 import external_auth_pb2 as auth
from envoy.service.auth.v3 import external_auth_pb2_grpc as auth_grpc
from google.protobuf import json_format

OK = 0
PERMISSION_DENIED = 7


def answer(text):
    return json_format.ParseDict(text, auth.CheckResponse())


CASES = {
    "ok": {"status": {"code": OK}},
    "nothing said": {},
    "denied": {"status": {"code": PERMISSION_DENIED}},
    "denied without a code": {"deniedResponse": {}},
    "denied with an ok": {"status": {"code": PERMISSION_DENIED}, "okResponse": {}},
    "redirect": {
        "status": {"code": PERMISSION_DENIED},
        "deniedResponse": {
            "status": {"code": "Found"},
            "headers": [
                {"header": {"key": "Location", "value": "https://login.test/"}},
                {"header": {"key": "set-cookie", "value": "a=1"}},
                {"header": {"key": "set-cookie", "value": "b=2"}, "append": True},
                {"header": {"key": "connection", "value": "x-hop"}},
                {"header": {"key": "content-length", "value": "1"}},
            ],
            "body": "<a>in</a>",
        },
    },
    "changes": {
        "status": {"code": OK},
        "okResponse": {
            "headers": [
                {"header": {"key": "X-Set", "value": "new"}},
                {"header": {"key": "x-appended", "value": "new"}, "append": True},
                {"header": {"key": "x-absent", "value": "new"}, "appendAction": "ADD_IF_ABSENT"},
                {"header": {"key": "x-there", "value": "new"}, "appendAction": "ADD_IF_ABSENT"},
                {"header": {"key": "x-if-there", "value": "new"}, "appendAction": "OVERWRITE_IF_EXISTS"},
                {"header": {"key": "x-if-absent", "value": "new"}, "appendAction": "OVERWRITE_IF_EXISTS"},
                {"header": {"key": "x-raw", "rawValue": "w7w="}},
                # None of these is a service's to write.
                {"header": {"key": ":path", "value": "/else"}},
                {"header": {"key": "host", "value": "else.test"}},
                {"header": {"key": "x-forwarded-for", "value": "9.9.9.9"}},
                {"header": {"key": "transfer-encoding", "value": "chunked"}},
            ],
            "headersToRemove": ["x-removed", "host", ":path"],
            "responseHeadersToAdd": [
                {"header": {"key": "x-seen-by", "value": "auth"}},
                {"header": {"key": "content-type", "value": "text/auth"}, "appendAction": "OVERWRITE_IF_EXISTS_OR_ADD"},
                {"header": {"key": "content-length", "value": "999"}},
            ],
            "queryParametersToSet": [{"key": "user", "value": "ann b"}],
            "queryParametersToRemove": ["token"],
        },
    },
    "broken field": {"status": {"code": OK}, "okResponse": {"headers": [{"header": {"key": "x y", "value": "new"}}]}},
    "error": {"status": {"code": PERMISSION_DENIED}, "errorResponse": {}},
}


class Service(auth_grpc.AuthorizationServicer):
    def Check(self, request, context):
        http = request.attributes.request.http
        case = http.headers.get("x-case", "ok")
        if case == "abort":
            context.abort(grpc.StatusCode.INTERNAL, "no")
        if case == "sleep":
            time.sleep(30)
        if case == "long":
            return answer({"status": {"code": PERMISSION_DENIED}, "deniedResponse": {"body": "x" * 100_000}})
        if case == "tell":
            source = request.attributes.source.address.socket_address.address
            seen = {
                "method": http.method,
                "path": http.path,
                "host": http.host,
                "scheme": http.scheme,
                "size": http.size,
                "body": http.body,
                "raw": http.raw_body.hex(),
                "source": source,
                "headers": dict(http.headers),
                "left": 0 < context.time_remaining() <= 5,
            }
            return answer({"status": {"code": PERMISSION_DENIED}, "deniedResponse": {"body": json.dumps(seen)}})
        return answer(CASES[case])


server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
auth_grpc.add_AuthorizationServicer_to_server(Service(), server)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
# The test holds the other end.
sys.stdin.read()
server.stop(None)
