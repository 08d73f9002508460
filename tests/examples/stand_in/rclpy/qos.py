"""Qualities of service."""

from enum import Enum
from types import SimpleNamespace

HistoryPolicy = Enum("HistoryPolicy", "KEEP_LAST KEEP_ALL")
ReliabilityPolicy = Enum("ReliabilityPolicy", "RELIABLE BEST_EFFORT")
QoSProfile = SimpleNamespace
