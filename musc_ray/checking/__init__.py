"""Check single images against what an OUT holds of their group, without touching the OUT: `musc-ray check`.

stored_group.py   what a complete run and its features hold of a group: settings, references, who is one of whom
given_images.py   the images to check, and the group of each
query.py          embed them as the run did
kept_patches.py   which patches are kept, where masks or the foreground leave some out
group_scorer.py   patch maps of the images against the references: those of a run that holds the images
standing.py       what the maps mean beside the group's scores: rescoring, p-value, rank, most similar images
heatmap.py        heat maps as files
check.py          all of it, the public function
"""
