"""Published failures of real systems: reproduced with stock parts, then the same work by geventpg.

Importing this package patches the standard library, before anything else is imported: the stock
parts work best that way.
"""

from gevent import monkey

monkey.patch_all()
