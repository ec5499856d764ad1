"""Settings of a job: the model, loading, messages, credentials."""
