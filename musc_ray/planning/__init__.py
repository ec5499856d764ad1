"""Plan a job: the cost model, and the rates that it rests on."""
