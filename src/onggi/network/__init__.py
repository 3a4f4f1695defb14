"""Networks of containers. So far: the files that name a container's network."""
