"""The seam between decisions and a machine: the field's clock, disk and network, or a simulation's."""
