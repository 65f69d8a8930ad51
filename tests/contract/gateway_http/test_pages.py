"""What is served beside the calls."""

from __future__ import annotations

import httpx
import pytest

from gateway_http import create_app, local
from services.runtime.http_server import serve
from tests.contract.gateway_http.conftest import RISK, Served
from tests.contract.gateway_http.servicers import risk_servicer

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_health_is_what_the_caller_says() -> None:
    answers: list[tuple[int, dict[str, object]]] = [
        (200, {"status": "healthy"}),
        (200, {"status": "degraded", "degraded": ["questdb"]}),
        (503, {"status": "unhealthy", "missing": ["valkey"]}),
    ]
    current = answers[0]
    app = create_app([local(RISK, risk_servicer())], title="test", health=lambda: current)
    http = await serve(app, "127.0.0.1", 0)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{http.port}") as client:
        for current in answers:
            answer = await client.get("/health")
            assert (answer.status_code, answer.json()) == current
            assert answer.headers["content-type"] == "application/json"
        assert (await client.get("/health")).content == b'{"status":"unhealthy","missing":["valkey"]}'
        assert (await client.head("/health")).status_code == 503
        assert (await client.get("/live")).json() == {"status": "alive"}
    await http.stop()


async def test_the_openapi_document_and_its_page_are_served(in_process: Served) -> None:
    document = await in_process.client.get("/openapi.json")
    assert document.headers["content-type"] == "application/json"
    assert "/check:batch" in document.json()["paths"]
    page = await in_process.client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "/check:batch" in page.text


async def test_every_path_of_the_document_is_served(in_process: Served) -> None:
    document = (await in_process.client.get("/openapi.json")).json()
    for path, item in document["paths"].items():
        concrete = path.replace("{account}", "a").replace("{order_id}", "a-1")
        for verb in item:
            answer = await in_process.client.request(verb.upper(), concrete)
            assert answer.status_code not in (404, 405), (verb, path)
