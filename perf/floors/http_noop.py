"""A Starlette app that reads a JSON body and answers a constant one: the floor of a REST request.

python -m perf.floors.http_noop PORT
"""

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

APPROVED = b'{"approved":true}'
SUBMITTED = b'{"status":"submitted","order_id":"test_account-01HKQJ0000000000000000000"}'


async def check(request: Request) -> Response:
    await request.json()
    return Response(APPROVED, media_type="application/json")


async def submit(request: Request) -> Response:
    await request.json()
    return Response(SUBMITTED, media_type="application/json")


app = Starlette(routes=[Route("/check", check, methods=["POST"]), Route("/orders", submit, methods=["POST"])])

if __name__ == "__main__":
    uvicorn.run(
        app, port=int(sys.argv[1]), loop="uvloop", http="httptools", access_log=False, log_level="error"
    )
