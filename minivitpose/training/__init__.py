"""Training: the loss of heatmaps and its derivative by every parameter."""

from minivitpose.training.backward import TrainingError, loss_and_gradients
from minivitpose.training.loss import heatmap_loss, heatmap_loss_backward

__all__ = ["TrainingError", "heatmap_loss", "heatmap_loss_backward", "loss_and_gradients"]
