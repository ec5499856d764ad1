"""Jobs under faults at random moments end, or are taken up by the same command, with the undisturbed run's scores.

The short form, a few faults of a fixed seed, is part of `make test`; the long one is

    make chaos ARGS='--chaos-rounds 20 --chaos-seed 1'
"""

import pytest

from tests.chaos.campaign import Campaign
from tests.chaos.plant import JOBS, plant

FAULTS_A_ROUND = 3

SHORT = {
    "archive": ("kill -9 of an extractor", "store answers 500 or 503 to every second request"),
    "nightly": ("kill -9 of a raylet", "store refuses the credentials", "disk full: scratch and spill volume"),
}


@pytest.mark.slow
def test_a_few_faults(tmp_path):
    with plant(tmp_path, seed=0) as made:
        campaign = Campaign(made, seed=0)
        for job, kinds in SHORT.items():
            campaign.round(job, [kind for kind in kinds if kind in campaign.possible()])
    print("\n" + campaign.table())
    assert not campaign.problems, "\n".join(campaign.problems)
    wanted = {kind for kinds in SHORT.values() for kind in kinds} & set(campaign.possible())
    assert {kind for kind, tally in campaign.tallies.items() if tally.injected} == wanted


@pytest.mark.chaos
def test_a_campaign(tmp_path, pytestconfig, capsys):
    rounds, seed = pytestconfig.getoption("--chaos-rounds"), pytestconfig.getoption("--chaos-seed")

    def say(text: str) -> None:
        with capsys.disabled():
            print(text, flush=True)

    with plant(tmp_path, seed) as made:
        campaign = Campaign(made, seed, say)
        kinds: list[str] = []
        try:
            for number in range(rounds):
                if len(kinds) < FAULTS_A_ROUND:  # every kind has its turn, in a random order, before one comes again
                    kinds += campaign.chance.sample(campaign.possible(), len(campaign.possible()))
                chosen, kinds = kinds[:FAULTS_A_ROUND], kinds[FAULTS_A_ROUND:]
                campaign.round(list(JOBS)[number % len(JOBS)], chosen)
        finally:
            say(f"\nSeed {seed}.\n\n{campaign.table()}")
    assert not campaign.problems, "\n".join(campaign.problems)
    assert sum(tally.injected for tally in campaign.tallies.values()) == rounds * FAULTS_A_ROUND
