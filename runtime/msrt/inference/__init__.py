"""Models as bundles, tensors as raw frames, and the slots in which versions of a model follow each other.

`bundle` is what the cloud signs about a model. `signature` checks requests, joins and cuts them by rows; `tensors`
turns raw frames into arrays and back. `engine` is the only file that knows onnxruntime. `slots` decides which version
answers, `answer` answers, `keeper` fetches and loads what the slots ask for. An edge uses the first three only and
needs no onnxruntime.
"""
