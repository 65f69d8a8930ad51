"""`GET /metrics` of a service: what its workers counted, and what the supervisor knows of them."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, generate_latest

from services.runtime.metrics import CONTENT_TYPE, merged_metrics


class MetricsServer:
    """Answers in threads of its own, so that a slow scrape does not delay the supervision."""

    def __init__(self, folder: Path, host: str, port: int) -> None:
        """Listens at once; `port` 0: nothing is served. Raises `OSError` when the port is taken."""
        self._registry = CollectorRegistry()
        self.restarts = Counter(
            "worker_restarts", "Workers that died and were replaced", registry=self._registry
        )
        self._folder = folder
        self._server: ThreadingHTTPServer | None = None
        if port:
            self._server = ThreadingHTTPServer((host, port), self._handler())
            self._server.daemon_threads = True
            threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    def text(self) -> bytes:
        """What Prometheus reads."""
        return merged_metrics(self._folder) + generate_latest(self._registry)

    def close(self) -> None:
        """Stops listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        text = self.text

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.partition("?")[0] != "/metrics":
                    self.send_error(404)
                    return
                body = text()
                self.send_response(200)
                self.send_header("Content-Type", CONTENT_TYPE)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Scrapes are not logged."""

        return Handler
