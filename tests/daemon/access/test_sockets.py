"""Binding a public socket: a port in use is named, or another one is taken."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq

from pyrotome.daemon.access.connections import Connections
from pyrotome.daemon.access.sockets import bind
from pyrotome.protocols.core.errors import BadInput


@pytest.fixture
def context() -> Iterator[zmq.Context]:
    with zmq.Context() as context:
        yield context


def taken(context: zmq.Context) -> tuple[zmq.Socket, str]:
    socket = context.socket(zmq.ROUTER)
    return socket, bind(socket, "tcp://127.0.0.1:*", "streams.control", fall_back=False)


@pytest.mark.parametrize("fall_back", [True, False])
def test_a_port_in_use_is_recognised_with_a_monitor_on_the_socket(
    context: zmq.Context, fall_back: bool
) -> None:
    # The monitor's event can overwrite libzmq's error number, not each time.
    first, endpoint = taken(context)
    with first:
        for _ in range(30):
            with context.socket(zmq.ROUTER) as socket:
                connections = Connections(socket, lambda _address, _why: None)
                try:
                    if fall_back:
                        found = bind(socket, endpoint, "streams.control", fall_back=True)
                        assert found not in (endpoint, "")
                    else:
                        with pytest.raises(BadInput, match=f"{endpoint}: Address already in use"):
                            bind(socket, endpoint, "streams.control", fall_back=False)
                finally:
                    connections.close()


def test_what_is_not_an_address_is_refused(context: zmq.Context) -> None:
    with context.socket(zmq.ROUTER) as socket, pytest.raises(BadInput, match=r"rig: streams\.x"):
        bind(socket, "tcp://nowhere", "streams.x", fall_back=True)
