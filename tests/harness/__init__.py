"""What tests of the running program share: a site of real processes, the machine-wide lock, bodies that can be checked."""
