//! Simulated machines and networks, and a harness for real processes
