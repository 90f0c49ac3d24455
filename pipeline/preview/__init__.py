"""What a model is going to become, from the headers of its files alone: no weight is fetched."""
