"""Files of models, replay buffers and running statistics: writing them, and loading them with all that is checked."""
