"""A node that is a cluster: one round's training on torch.distributed, in processes kept by torchrun's elastic agent.

local       the runner's side: a Local whose training is the group's
group       starts the agent, hands it rounds, outlives restarts of its workers
messages    what crosses the socket between the runner and rank 0
agent       the process that is torchrun's elastic agent
forked      ties the server that forks workers to the agent's life
meeting     pure: how the nodes of a group of several are seated; door: where an agent asks its node for them
rendezvous  torchrun's rendezvous, over that
worker      a worker: joins, waits for rounds
place       its rank, device and process group
loop        the epochs of one round: order of the samples, checkpoints, metrics
engine      what the loop asks of a strategy
replicas    strategies in which every rank runs the whole forward pass
copies      DDP and its hooks; sharded: FSDP2; parallel: tensor parallel
pipeline    the strategy in which it does not
trial       the largest batch that fits
whole       tensors that may be divided over ranks
saved       distributed checkpoints, loaded again under any number of processes
blocks      what of a model belongs together, and recomputing its activations
data        the samples of a step
shares      pure: who takes which samples, where a model is cut, which layers are divided
"""
