"""`tima plan`: time, memory and cost of a training before anyone pays for it."""

from tima.plan.devices import DEVICES, Device, find_device
from tima.plan.estimate import PlanRequest, plan

__all__ = ["DEVICES", "Device", "PlanRequest", "find_device", "plan"]
