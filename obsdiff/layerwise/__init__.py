"""One layer, or one group of layers, and its Hessian."""
