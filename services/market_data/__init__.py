"""Replays a recorded trading day as live ticks, and stores the days before it as history."""
