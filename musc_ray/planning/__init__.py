"""What a job will cost: cost model, calibration."""
