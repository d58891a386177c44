"""The words that DeepServe's processes say to each other.

Importing this package starts nothing and loads no client, server or engine: the
controller and the pods depend on it and on nothing else of the SDK's user face.
"""

PROTOCOL_VERSION = 1
