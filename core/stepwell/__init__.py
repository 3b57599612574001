"""Stepwell's shared core: the domain, the engine that runs it, and the adapters that connect it.

Imports point one way: ``domain`` knows nobody, ``engine`` knows the domain, ``actions`` and ``adapters`` implement what
the engine asks for.
"""
