"""The page and the HTTP API behind `tima serve`.

    from tima.serve import Settings, create_app
    app = create_app(Settings(models=["nano"]))      # an ASGI application; `uvicorn` runs it

A request names models and runs by ids from a list that is made at the start, and brings its picture along: nothing of it
becomes a path, and nothing is read from disk on its behalf. Errors are problem details (RFC 9457) that say what, where and
what to do. What a request may cost is in `limits.py`.
"""

from tima.serve.app import create_app
from tima.serve.limits import Limits
from tima.serve.settings import Settings

__all__ = ["Limits", "Settings", "create_app"]
