"""The Open Inference Protocol front, used by edge and cloud.

backend  the seam: what a master offers (Protocol, six methods)
routes   path to question
oip      JSON to tensors and back
sse      events as a stream
app      the ASGI callable that ties them together
http     uvicorn in our own loop (import it where you listen: it needs the extra `edge` or `cloud`)
"""
