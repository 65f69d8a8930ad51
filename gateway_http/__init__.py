"""REST in front of gRPC servicers, compiled from the `google.api.http` annotations of their contracts."""
