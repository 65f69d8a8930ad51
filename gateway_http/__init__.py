"""REST in front of gRPC servicers, compiled from the `google.api.http` annotations of their contracts."""

from gateway_http.app import Gateway, create_app
from gateway_http.targets import Binding, local, remote

__all__ = ["Binding", "Gateway", "create_app", "local", "remote"]
