"""What do other eyes than LPIPS see in the pictures of a skip-list? Judges.

A judge compares pictures or clips with bf16's and gives one number a prompt. Judges are recorded
for skip-lists that are verified on held-out prompts. They decide nothing, unless a caller bounds
one or makes one the objective.

- `_base.Judge` is the contract. One file each implements it: `psnr`, `ssim`, `flip`, `cvvdp` (for
  clips), `text` (for prompts that ask for words), and `own` for a function of the user's.
- `panel` says which judges there are and which of them can run here, and lets them judge.
- `objective` makes a user's function the distance that a search minimises.

Nothing is imported here, so that a judge's package is loaded only where the judge runs.
"""
