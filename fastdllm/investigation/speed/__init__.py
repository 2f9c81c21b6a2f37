"""What a forward costs: cost model, GPU measurements, throughput, Pareto fronts, sweeps."""
