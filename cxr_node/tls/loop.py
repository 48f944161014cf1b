"""The handshakes of asyncio's servers. Imported by those only: an acceptor needs no asyncio."""

import asyncio
from typing import Any

from cxr_node.tls.handshake import HANDSHAKE_WITHIN_S


class BoundedHandshakes(asyncio.SelectorEventLoop):
    """An event loop whose servers give a handshake as long as everybody else here does; asyncio's own patience is a
    minute, and uvicorn has no setting for it."""

    async def create_server(self, *arguments: Any, **options: Any) -> Any:
        """See `asyncio.loop.create_server`."""
        if options.get("ssl") is not None:
            options.setdefault("ssl_handshake_timeout", HANDSHAKE_WITHIN_S)
        return await super().create_server(*arguments, **options)
