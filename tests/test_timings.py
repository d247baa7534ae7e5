from __future__ import annotations

import pytest

from prolip_search.timings import Timings


def test_stages_add_up_in_the_order_in_which_they_began() -> None:
    timings = Timings()
    with timings.stage("first"):
        sum(range(1000))
    once = timings.stages["first"].wall_s
    with pytest.raises(KeyError), timings.stage("second"):
        raise KeyError
    with timings.stage("first"):
        sum(range(1000))
    assert list(timings.stages) == ["first", "second"]
    assert timings.stages["first"].wall_s > once > 0
    assert timings.stages["second"].cpu_s >= 0
