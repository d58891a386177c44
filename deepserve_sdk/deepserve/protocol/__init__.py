"""The words that DeepServe's processes say to each other.

Importing this package starts nothing and loads no client, server or engine: the
controller and the pods depend on it and on nothing else of the SDK's user face.
"""

PROTOCOL_VERSION = 1


def _import_msgspec() -> None:
    """Without typing_extensions, of which msgspec takes nothing here that typing has not: with what it imports in its
    turn (inspect, ast, tokenize) it takes as long as all of this package, in each of a first call's three processes.
    """
    import sys

    threading = sys.modules.get("threading")
    if "msgspec" in sys.modules or (threading is not None and threading.active_count() > 1):
        return  # another thread may be importing it just now
    known = sys.modules.get("typing_extensions")
    if known is not None:
        return
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]
    try:
        import msgspec  # noqa: F401
    finally:
        del sys.modules["typing_extensions"]


_import_msgspec()
