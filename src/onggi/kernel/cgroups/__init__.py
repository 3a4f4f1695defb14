"""cgroups: one interface over v1, v2 and hybrid hosts. `driver.Cgroup` is the door."""
