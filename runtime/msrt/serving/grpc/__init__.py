"""The Open Inference Protocol front over gRPC. Importing this package imports no grpc: `server` does, and is imported
by who was asked to listen.

oip.proto  the messages, written by us; `generate` makes `schema` of it
messages   the classes, in a pool of their own
codec      bytes to InferRequest, InferAnswer to bytes
looks      every question but inference
stream     many requests on one call, answered as they finish
server     grpc.aio in our own loop; the only file that imports it
"""
