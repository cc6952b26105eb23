"""Launch records of GPU kernels in plans."""

from __future__ import annotations

import json

import pytest

from fusewright.core.errors import VerifyError
from fusewright.core.plan import Call, Launch, Plan


def _plan(launch: Launch | None) -> Plan:
    plan = Plan(("N",), 1)
    plan.entries = {"k": 0}
    plan.outputs = [("o", 0, plan.expr(0))]
    plan.add_kernel("k", "k", "elementwise", launch=launch)
    plan.steps = [Call(0, [plan.address("i", 0), plan.address("o", 0)], plan.expr(8))]
    return plan


def test_a_launch_survives_json_and_cpu_kernels_have_none() -> None:
    again = Plan.from_bytes(_plan(Launch(256, 1024, 4096, 132)).to_bytes())
    launch = again.kernels[0].launch
    assert launch is not None
    assert (launch.block, launch.units, launch.shared, launch.max_blocks) == (256, 1024, 4096, 132)
    assert Plan.from_bytes(_plan(None).to_bytes()).kernels[0].launch is None
    assert "launch" not in json.loads(_plan(None).to_bytes())["kernels"][0]


@pytest.mark.parametrize("values", [(0, 1), (33, 1), (2048, 1), (256, 0), (256, -1), (256, 1, -4), (256, 1, 1 << 21)])
def test_a_launch_outside_every_gpu_is_refused(values: tuple[int, ...]) -> None:
    with pytest.raises(VerifyError, match="a launch of"):
        Plan.from_bytes(_plan(Launch(*values)).to_bytes())
