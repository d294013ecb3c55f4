"""An on-call engineer's first responder: a real alert in, a verified fix or a paged human out."""

__version__ = "0.1.0"
