"""A part of the grid of tests/net/grid.py, and what congestion control does at a bottleneck.

Simulated time: the figures are the same everywhere, so these are about behaviour, not speed.
"""

import churn
import grid
import pytest
from netsim import Simulator, Transfer, Wire


@pytest.mark.parametrize("loss", sorted(grid.YARDSTICK))
def test_goodput_beside_smoltcp(loss):
    total = 3 << 20
    assert grid.goodput(loss, 32768, total=total) >= 0.9 * grid.YARDSTICK[loss]


def test_reno_is_what_its_formula_says():
    # RFC 3448 3.1 without its timeouts: MSS / (RTT * sqrt(2 p / 3)); chance and timeouts cost some.
    expected = 1448 / (0.1 * (2 * 0.01 / 3) ** 0.5)
    assert 0.5 * expected < grid.goodput(0.01, 262144, "reno", total=3 << 20) < 1.2 * expected


@pytest.mark.parametrize("algorithm", ["reno", "westwood"])
def test_a_bottleneck_is_filled_and_shared(algorithm):
    # 500 bytes/ms for 40 ms there and back is 20 KB; the queue holds twice that.
    wire = Wire(delay=20, rate=500)
    wire.queue = 40000
    sim = Simulator(4, wire, congestion=grid.ALGORITHMS[algorithm], buffer_size=262144)
    listener = sim.b.tcp.listen(0, sim.b.tcp.bind(80), 5)
    transfers = []
    for _ in range(2):
        client = sim.a.tcp.connect(0x0A000002, 80, 0, sim.now)
        assert sim.run(1000, listener.ready)
        transfers.append(Transfer(client, listener.accept(), 1 << 30))
    sim.run(20000, lambda: any([transfer.pump() for transfer in transfers]))
    shares = [transfer.received for transfer in transfers]
    assert sum(shares) > 0.85 * 500 * 20000
    assert min(shares) > 0.25 * max(shares)
    # What is lost is sent again once, and little is lost.
    assert sim.link_a.wire.count * 1448 < 1.15 * sum(shares)


def test_churn_in_the_simulator():
    grown, ports = churn.churn(1500, report=lambda _: None)
    assert ports > 1200 and grown < 1 << 20


def test_clients_are_served_during_a_flood_of_syns():
    served, most = churn.flood(2000, clients=10)
    assert served == 10 and most <= 128 + 20


def test_a_transfer_beside_a_crowd_that_is_idle():
    assert churn.crowd(150, total=1 << 20) > 1000000
