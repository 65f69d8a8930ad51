"""What every service shares: settings, connections, telemetry, supervision, gRPC and HTTP servers."""
