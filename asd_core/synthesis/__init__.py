"""New clips of rare conditions: a conditional diffusion model draws them, a classifier and rules screen them.

Only what is kept joins the recorded clips, as `Clip.origin` "generated"; detectors treat them alike.
"""
