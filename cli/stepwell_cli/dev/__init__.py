"""``stepwell dev``: the whole system on one machine, over the manifests of a folder.

``files`` sees what changes, ``catalogue`` says what the manifests mean together, ``plan`` what that asks of the database,
``sync`` carries it out, and ``feed`` tells of the runs. ``folder`` is ``.stepwell/``, by which other commands find it.
"""
