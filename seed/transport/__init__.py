"""How bytes come in: sockets, their files, who may connect, and how many.

Owns the endpoint and the list of allowed keys. The socket is the inference thread's, and a thread
of its own answers libzmq's questions about keys. It gives out messages' frames, undecoded.
"""
