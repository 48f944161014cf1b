"""Server-sent events."""

import asyncio

import pytest

from cxr_node.worklist.web.events import EventHub
from storage import Doorbell

pytestmark = pytest.mark.requirement("SRS-WLT-005")


def test_every_open_page_hears_the_doorbell_and_nothing_of_a_study(tmp_path):
    """An event says that the list changed; the page asks for it with its own token."""

    async def listen() -> list[str]:
        doorbell = Doorbell(tmp_path / "run")
        hub = EventHub(doorbell)
        hub.start()
        streams = [hub.stream() for _ in range(3)]
        firsts = [await anext(stream) for stream in streams]
        waiting = [asyncio.ensure_future(anext(stream)) for stream in streams]
        await asyncio.sleep(0.05)
        doorbell.ring("worklist")
        heard = await asyncio.wait_for(asyncio.gather(*waiting), 2)
        hub.close()
        for stream in streams:
            with pytest.raises(StopAsyncIteration):
                await asyncio.wait_for(anext(stream), 2)
        return firsts + list(heard)

    heard = asyncio.run(listen())
    assert heard == ["retry: 2000\n\n"] * 3 + ["event: changed\nid: 1\ndata: 1\n\n"] * 3
