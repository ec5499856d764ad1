"""A campaign of faults: jobs and what they run on are killed, cut off, filled up and set wrong at random moments."""
