"""The mannequin world: pictures of articulated people, drawn by ray casting, whose joints are known exactly."""

from minivitpose.synthetic.scenes import Person, Scene, SyntheticError, batch, scene

__all__ = ["Person", "Scene", "SyntheticError", "batch", "scene"]
