"""Associations that others ask for, whichever listener takes them: what a stranger says first must hold up nobody."""

import contextlib
import queue
from typing import Any

from pynetdicom import evt
from pynetdicom.fsm import TRANSITION_TABLE
from pynetdicom.pdu import A_ABORT_RQ

from cxr_node.log import get_logger
from cxr_node.seldom import Seldom

seldom = Seldom(get_logger("listener"))

# PS3.8 9.2.2: no connection; and the connection is only waited for to be closed.
_OVER = ("Sta1", "Sta13")


def guards() -> list[Any]:
    """Return the event handlers that every listener adds to its own."""
    return [(evt.EVT_CONN_OPEN, guard_threads), (evt.EVT_CONN_CLOSE, lambda event: end_of_probe(event.assoc))]


def end_of_probe(association: Any) -> None:
    """Wake an association whose peer left before it asked for one, as a load balancer's check does, or said something
    else first: its thread would wait for the request until the time-out, and take the place of another."""
    if association.requestor.primitive is None:
        association.dul.to_user_queue.put(None)


def _break_off(association: Any) -> None:
    """End what a peer began with a PDU that contradicts itself, as the library does where it cannot read one."""
    dul, abort = association.dul, A_ABORT_RQ()
    abort.source, abort.reason_diagnostic = 0x02, 0x00
    if dul.socket is not None:
        dul.socket.send(abort.encode())
        dul.socket.close()
    association.is_aborted, association.is_established = True, False
    association._kill = dul._kill_thread = True
    end_of_probe(association)


def guard_threads(event: Any) -> None:
    """Keep the library's threads from ending over what a peer says, with the connection left open.

    What the node wanted to say over a connection that is over by now is dropped: a peer that sends nonsense right after
    its request has it closed while the request is being answered. A PDU whose parts contradict one another is answered
    with an A-ABORT.
    """
    dul = event.assoc.dul
    machine, address = dul.state_machine, str(event.address[0])
    act = machine.do_action

    def do_action(name: str) -> None:
        if machine.current_state in _OVER and (name, machine.current_state) not in TRANSITION_TABLE:
            with contextlib.suppress(queue.Empty):
                dul.to_provider_queue.get(block=False)  # what the event stands for: it would be one again and again
            return
        try:
            act(name)
        except Exception as error:  # noqa: BLE001  # its thread would end, and the connection stay open
            seldom.warning("association_broken_off", peer_address=address, error_type=type(error).__name__)
            _break_off(event.assoc)

    machine.do_action = do_action
    negotiate = event.assoc.acse.negotiate_association

    def negotiate_association() -> None:
        try:
            negotiate()
        except Exception as error:  # noqa: BLE001  # as above, in the association's own thread
            seldom.warning("association_broken_off", peer_address=address, error_type=type(error).__name__)
            event.assoc.abort()

    event.assoc.acse.negotiate_association = negotiate_association
