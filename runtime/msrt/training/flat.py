"""A model whose float32 tensors lie in one vector, one after the other: loading weights is one copy, reading none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from msrt.errors import InvalidJob
from msrt.learning.vector import Layout, Slot, Vector

__all__ = ["FlatModel"]


@dataclass
class _Place:
    """One tensor of the state and its part of the vector. `inside`: it lies there itself."""

    tensor: torch.Tensor
    slot: Slot
    part: Vector
    inside: bool


class FlatModel:
    """Its vector is in the order of the state_dict. What is no float32, or is tied to another tensor, is copied."""

    def __init__(self, model: torch.nn.Module) -> None:
        tensors = {name: value.detach() for name, value in model.state_dict().items()}
        self._model = model
        self.layout = Layout.of({name: value.cpu().numpy() for name, value in tensors.items()})
        self._flat: Vector = np.empty(self.layout.size, np.float32)
        self._places: list[_Place] = []
        taken: set[int] = set()
        own = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
        at = 0
        for slot in self.layout.slots:
            part = self._flat[at : at + slot.size]
            at += slot.size
            tensor = own[slot.name]
            inside = tensor.dtype == torch.float32 and not tensor.is_cuda and tensor.data_ptr() not in taken
            taken.add(tensor.data_ptr())
            part[...] = tensor.detach().cpu().numpy().reshape(-1)
            if inside and slot.size:
                tensor.data = torch.from_numpy(part.reshape(slot.shape))
                taken.add(tensor.data_ptr())
            self._places.append(_Place(tensor, slot, part, inside))

    def put(self, weights: Vector) -> None:
        """Load a vector into the model. Raises InvalidJob when it is of another size."""
        if weights.size != self.layout.size:
            raise InvalidJob(f"the vector has {weights.size} elements, the model {self.layout.size}")
        np.copyto(self._flat, weights)
        for place in self._places:
            if not self._still_inside(place):
                values = place.part.reshape(place.slot.shape)
                whole = np.dtype(place.slot.dtype).kind in "iub"
                with torch.no_grad():
                    place.tensor.copy_(torch.from_numpy(np.asarray(np.rint(values) if whole else values)))

    def vector(self) -> Vector:
        """The model's weights now. Valid until they are trained or loaded again: copy what must stay."""
        for place in self._places:
            if not self._still_inside(place):
                np.copyto(place.part, place.tensor.detach().cpu().numpy().reshape(-1), casting="unsafe")
        return self._flat

    def since(self, weights: Vector) -> Vector:
        """The way from these weights. It takes the place of the model's own: put weights before it is used again."""
        own = self.vector()
        return np.subtract(own, weights, out=own)

    def gradient(self, out: Vector) -> None:
        """The gradient of every element into `out`; 0 where none came. Raises InvalidJob for a model that keeps float
        buffers: no gradient moves them.
        """
        parameters = dict(self._model.named_parameters(remove_duplicate=False))
        at = 0
        for place in self._places:
            size, parameter = place.slot.size, parameters.get(place.slot.name)
            if parameter is None and place.tensor.is_floating_point():
                said = f"the model keeps {place.slot.name!r} beside its parameters, and no gradient moves it"
                raise InvalidJob(said, hint="[parameter_server] push = 'delta'")
            found = parameter.grad if parameter is not None else None
            part = out[at : at + size]
            if found is None:
                part[...] = 0.0
            else:
                np.copyto(part, found.detach().cpu().numpy().reshape(-1), casting="unsafe")
            at += size

    def _still_inside(self, place: _Place) -> bool:
        """User code may have given a tensor other memory."""
        return place.inside and place.tensor.data_ptr() == place.part.ctypes.data
