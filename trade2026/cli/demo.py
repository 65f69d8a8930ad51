"""`trade2026 demo`: one order's way through a platform of its own, on real servers and real prices."""


def run() -> int:
    """Not there yet."""
    print("the demonstration needs the services, which are not in this build")
    return 1
