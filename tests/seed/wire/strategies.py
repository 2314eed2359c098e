"""What Hypothesis draws for more than one file of tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from seed.wire.spaces import DTYPES, SpaceSpec

# A busy machine may take its time.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

specs = st.builds(
    SpaceSpec,
    st.sampled_from(DTYPES),
    st.lists(st.integers(1, 4), max_size=4).map(tuple),
    st.none() | st.integers(1, 1000),
)
