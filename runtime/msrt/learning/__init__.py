"""How many updates become one model. Pure numerics: no socket, clock, thread or log inside.

vector     a model's named tensors as one flat float32 vector, and as bytes
compress   a vector as a payload of fewer bytes, with error feedback
rules      what most nodes say, whatever the others send: median, trimmed mean, Krum, Bulyan
aggregate  a running sum of payloads by cache-sized blocks, and the checks an update must pass
optimise   how the server moves the model by a mean, and what it remembers for the next one
schedule   a learning rate over time
secure_aggregation  masks that cancel in a sum: an edge adds up what it cannot see
rounds     two state machines that decide what is added, forwarded, dropped and when a round ends
"""
