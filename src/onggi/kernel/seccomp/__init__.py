"""From an OCI seccomp profile to the classic BPF program that the kernel runs at every call."""
