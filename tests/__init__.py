"""Tests of trade2026."""
