"""What the benchmarks share: rivals, fresh processes, the machine, targets."""
