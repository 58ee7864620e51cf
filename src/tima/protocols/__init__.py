"""Protocols: everything that decides what a robust accuracy means, in one small versioned YAML file each.

A number without its protocol is not comparable with anything; results therefore carry the whole protocol and its hash.
"""

from tima.eps import eps_text
from tima.protocols.files import check_protocol, known_protocols, load_protocol, protocols_folder
from tima.protocols.protocol import Protocol

__all__ = ["Protocol", "check_protocol", "eps_text", "known_protocols", "load_protocol", "protocols_folder"]
